"""A session signs in beside other work, and leaves no worker behind."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from loopback import TENANT, TOKEN, Asked, Reply, Service, http, json_reply

from dataverse.conftest import CLIENT_ID, SECRET
from dataverse_sync.config import Config
from dataverse_sync.dataverse.session import open_session
from dataverse_sync.dataverse.throttle import StoppedError
from dataverse_sync.errors import AuthError
from dataverse_sync.redaction import MASK, Redactor


@pytest.fixture
def config(service: Service) -> Config:
    return Config(service.api_url, CLIENT_ID, SECRET, workers=2)


class Held:
    """Replies that wait until they may be given."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.asked = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, _: Asked | None = None) -> Reply:
        self.asked.set()
        self.go_on.wait(10)
        return self.reply


EMPTY = json_reply({"value": []})
A_TOKEN = json_reply({"access_token": TOKEN, "expires_in": 3599})


def workers() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith("dataverse")]


def test_workers_end_with_the_session(service: Service, config: Config) -> None:
    redactor = Redactor()

    with open_session(config, redactor) as session:
        session.sign_in()
        signed_in = len(service.server.asked)
        pages = list(session.pool.map(session.client.get_page, [service.request()] * 5))
        at_work = workers()
        last = session.pool.submit(time.sleep, 0.05)

    assert signed_in == 2
    assert session.auth.tenant_id == TENANT
    assert [page.records for page in pages] == [()] * 5
    assert 1 <= len(at_work) <= 2
    assert last.done()
    assert workers() == []
    assert redactor.redact(SECRET) == redactor.redact(f"{TOKEN}-1") == MASK


def test_session_opens_before_sign_in_ends(service: Service, config: Config) -> None:
    service.token = held = Held(A_TOKEN)

    with open_session(config, Redactor()) as session:
        assert held.asked.wait(5)
        held.go_on.set()
        session.sign_in()

    assert session.auth.tenant_id == TENANT
    assert len(service.posts) == 1


@pytest.mark.parametrize("ending", [KeyboardInterrupt, ValueError])
def test_break_does_not_wait_for_sign_in(
    service: Service, config: Config, ending: type[BaseException]
) -> None:
    service.token = held = Held(A_TOKEN)

    began = time.monotonic()
    with pytest.raises(ending), open_session(config, Redactor()):
        assert held.asked.wait(5)
        raise ending
    left_behind = workers()
    held.go_on.set()

    assert len(left_behind) == 1
    assert time.monotonic() - began < 9


def test_refused_sign_in_ends_the_session(service: Service, config: Config) -> None:
    service.token = lambda: json_reply({"error_description": "AADSTS7000215: Wrong."}, status=401)

    with (
        pytest.raises(AuthError, match="AADSTS7000215"),
        open_session(config, Redactor()) as session,
    ):
        session.sign_in()
        pytest.fail("signed in")

    for thread in threading.enumerate():
        if thread.name.startswith("dataverse"):
            thread.join(5)
    assert workers() == []
    assert len(service.posts) == 1


@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit, ValueError])
def test_break_does_not_wait_for_reads(
    service: Service, config: Config, ending: type[BaseException]
) -> None:
    futures: list[Any] = []
    service.script = held = Held(EMPTY)

    with pytest.raises(ending), open_session(config, Redactor()) as session:
        session.sign_in()
        get_page = session.client.get_page
        futures = [session.pool.submit(get_page, service.request()) for _ in range(4)]
        for _ in range(1000):  # until both workers are in their reads
            if len(service.data) == 2:
                break
            time.sleep(0.005)
        raise ending
    left_behind = [future.done() for future in futures].count(False)
    held.go_on.set()
    with pytest.raises(StoppedError):
        session.client.get_page(service.request())
    for future in futures[:2]:
        future.exception(10)

    assert left_behind == 2  # those in a read; the others were cancelled
    assert [future.cancelled() for future in futures] == [False, False, True, True]
    assert len(service.data) == 2


def test_break_ends_a_throttled_read(service: Service, config: Config) -> None:
    service.replies(http(429, b"", ("Retry-After", "3600")))

    with pytest.raises(KeyboardInterrupt), open_session(config, Redactor()) as session:
        future = session.pool.submit(session.client.get_page, service.request())
        while session.client.waited_s == 0:
            assert not future.done()
        raise KeyboardInterrupt

    assert isinstance(future.exception(5), StoppedError)
    assert session.client.waited_s == 300
