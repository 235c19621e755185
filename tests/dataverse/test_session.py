"""An environment is opened signed in, and leaves no worker behind."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from loopback import (
    NETWORK_VARIABLES,
    Asked,
    LoopbackServer,
    Reply,
    http,
    json_reply,
)

from dataverse_sync.config import Config
from dataverse_sync.dataverse.session import open_environment
from dataverse_sync.dataverse.throttle import StoppedError
from dataverse_sync.errors import AuthError
from dataverse_sync.model import PageRequest
from dataverse_sync.redaction import MASK, Redactor

SECRET = "kQ8~vT2xZr.Lw0sNd-Yp5HgJc9Mb3_FuXe7A"


class Service:
    """A Web API on loopback whose reads wait while it is held up."""

    def __init__(self) -> None:
        self.server = LoopbackServer(self._answer)
        self.signing_in = threading.Event()
        self.may_sign_in = threading.Event()
        self.may_sign_in.set()
        self.reading = threading.Event()
        self.go_on = threading.Event()
        self.token = json_reply({"access_token": "opaque-token", "expires_in": 3599})
        self.page: Reply = json_reply({"value": []})

    def _answer(self, asked: Asked) -> Reply:
        if asked.method == "POST":
            self.signing_in.set()
            return self.token if self.may_sign_in.wait(10) else http(400)
        if "authorization" not in asked.headers:
            uri = f"Bearer authorization_uri={self.server.origin}/contoso.example/authorize"
            return http(401, b"", ("WWW-Authenticate", uri))
        self.reading.set()
        self.go_on.wait(10)
        return self.page

    @property
    def config(self) -> Config:
        return Config(f"{self.server.origin}/api/data/v9.2/", "client-id", SECRET, workers=2)

    @property
    def request(self) -> PageRequest:
        return PageRequest("accounts", self.config.api_url + "accounts")


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    for name in NETWORK_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    made = Service()
    with made.server:
        yield made


def workers() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith("dataverse")]


def test_an_environment_is_signed_in_and_its_workers_end_with_it(service: Service) -> None:
    redactor = Redactor()
    service.go_on.set()

    with open_environment(service.config, redactor) as environment:
        signed_in = len(service.server.asked)
        pages = list(environment.pool.map(environment.client.get_page, [service.request] * 5))
        at_work = workers()
        last = environment.pool.submit(time.sleep, 0.05)

    assert signed_in == 2
    assert environment.auth.tenant_id == "contoso.example"
    assert [page.records for page in pages] == [()] * 5
    assert 1 <= len(at_work) <= 2
    assert last.done()
    assert workers() == []
    assert redactor.redact(SECRET) == redactor.redact("opaque-token") == MASK


def test_what_can_be_done_meanwhile_is_done_while_the_sign_in_waits(service: Service) -> None:
    service.may_sign_in.clear()
    found: list[bool] = []

    def work() -> None:
        found.append(service.signing_in.wait(5))
        service.may_sign_in.set()

    with open_environment(service.config, Redactor(), work) as environment:
        assert environment.auth.tenant_id == "contoso.example"

    assert found == [True]


@pytest.mark.parametrize("ending", [KeyboardInterrupt, ValueError])
def test_an_end_while_the_sign_in_waits_does_not_wait_for_it(
    service: Service, ending: type[BaseException]
) -> None:
    service.may_sign_in.clear()

    def end() -> None:
        assert service.signing_in.wait(5)
        raise ending

    began = time.monotonic()
    with pytest.raises(ending), open_environment(service.config, Redactor(), end):
        pytest.fail("opened")
    left_behind = workers()
    service.may_sign_in.set()

    assert len(left_behind) == 1
    assert time.monotonic() - began < 9


def test_a_refused_sign_in_opens_nothing(service: Service) -> None:
    service.token = json_reply({"error_description": "AADSTS7000215: Wrong."}, status=401)

    with (
        pytest.raises(AuthError, match="AADSTS7000215"),
        open_environment(service.config, Redactor()),
    ):
        pytest.fail("opened")

    for thread in threading.enumerate():
        if thread.name.startswith("dataverse"):
            thread.join(5)
    assert workers() == []


def count_reads(service: Service) -> int:
    return len([asked for asked in service.server.asked if "authorization" in asked.headers])


@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit, ValueError])
def test_an_end_in_the_middle_does_not_wait_for_reads(
    service: Service, ending: type[BaseException]
) -> None:
    futures: list[Any] = []

    with pytest.raises(ending), open_environment(service.config, Redactor()) as environment:
        get_page = environment.client.get_page
        futures = [environment.pool.submit(get_page, service.request) for _ in range(4)]
        for _ in range(1000):  # until both workers are in their reads
            if count_reads(service) == 2:
                break
            time.sleep(0.005)
        raise ending
    left_behind = [future.done() for future in futures].count(False)
    service.go_on.set()
    with pytest.raises(StoppedError):
        environment.client.get_page(service.request)
    for future in futures[:2]:
        future.exception(10)

    assert left_behind == 2  # those in a read; the others were cancelled
    assert [future.cancelled() for future in futures] == [False, False, True, True]
    assert count_reads(service) == 2


def test_an_hour_of_retry_after_is_said(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    service.go_on.set()
    service.page = http(429, b"", ("Retry-After", "3600"))

    with (
        pytest.raises(KeyboardInterrupt),
        open_environment(service.config, Redactor()) as environment,
    ):
        future = environment.pool.submit(environment.client.get_page, service.request)
        while environment.client.waited_s == 0:
            assert not future.done()
        raise KeyboardInterrupt

    assert isinstance(future.exception(5), StoppedError)
    assert environment.client.waited_s == 300
    assert caplog.record_tuples[-1] == (
        "dataverse_sync.dataverse.session",
        logging.WARNING,
        "the service asks to wait 3600 s; asked again after 300 s",
    )
