"""What the tests of this wing share: a service on loopback, and a clock that jumps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trustme
from loopback import NETWORK_VARIABLES, FakeTime, LoopbackServer, Reply, Service, in_turn

from dataverse_sync.config import Config
from dataverse_sync.dataverse.auth import Auth
from dataverse_sync.dataverse.credentials import ClientSecret
from dataverse_sync.dataverse.retries import Retries
from dataverse_sync.dataverse.throttle import Throttle
from dataverse_sync.dataverse.transport import Transport, read_answer
from dataverse_sync.redaction import Redactor

CLIENT_ID = "b2a7e4f0-58d3-4f19-8c6e-07d1a93b5e64"
SECRET = "kQ8~vT2xZr.Lw0sNd-Yp5HgJc9Mb3_FuXe7A"


@pytest.fixture(autouse=True)
def _plain_network(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NETWORK_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def fake() -> FakeTime:
    return FakeTime()


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    with made.server:
        yield made


@pytest.fixture
def serve() -> Iterator[Callable[..., LoopbackServer]]:
    """Start servers that give these replies in turn, or follow a script."""
    servers: list[LoopbackServer] = []

    def start(*replies: Reply, script: Any = None, **options: Any) -> LoopbackServer:
        server = LoopbackServer(script or in_turn(*replies), **options)
        servers.append(server.__enter__())
        return server

    yield start
    for server in servers:
        server.__exit__(None, None, None)


@pytest.fixture
def make_transport(fake: FakeTime) -> Iterator[Callable[..., Transport]]:
    made: list[Transport] = []

    def make(time: Any = fake, workers: int = 8, read_timeout_s: float = 5.0) -> Transport:
        throttle = Throttle(workers, time.clock, time.wait)
        made.append(Transport(throttle, 5.0, read_timeout_s))
        return made[-1]

    yield make
    for transport in made:
        transport.close()


@pytest.fixture
def transport(make_transport: Callable[..., Transport]) -> Transport:
    return make_transport()


def make_auth(
    config: Config,
    transport: Transport,
    redactor: Redactor,
    clock: Callable[[], float],
    authority: str | None = None,
) -> Auth:
    """An app with a client secret."""
    credential = ClientSecret(config, transport, redactor, authority)
    return Auth(credential, config.token_scope, redactor, clock)


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


def fetch(transport: Transport, url: str, token: str = "") -> tuple[int, bytes]:
    """One request with a place in the throttle, and its whole body."""
    headers = {"Accept": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    transport.throttle.enter()
    try:
        answer = transport.fetch(
            url,
            headers,
            lambda response: read_answer(response, 2**20),
            Retries.start(transport.throttle),
        )
        return answer.status, answer.body
    finally:
        transport.throttle.leave(answered=True)
