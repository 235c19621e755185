"""A loopback web server that sends exactly the bytes of a test, and clocks set by a test.

The server reads requests off a socket and keeps them as they came, so a test sees
what was really sent. A script is a function from what was asked to a reply, which
is bytes and what becomes of the connection after them.
"""

from __future__ import annotations

import gzip
import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from dataverse_sync.model import PageRequest

RESPONSES = Path(__file__).parent / "fixtures" / "mock_responses"
ORIGIN = "https://fabrikamtrials.api.crm4.dynamics.com"  # in the files
DATE = "Wed, 01 May 2024 10:00:00 GMT"
JSON_TYPE = ("Content-Type", "application/json; odata.metadata=minimal; odata.streaming=true")
TENANT = "6f1c9d0e-2b7a-4c35-9e84-d3a5b0c71f22"
TOKEN = "pX4wQz7LmT1vBn9Ks2Rd6Hy0Gc8Jf5UaEo3Wi"
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: no goodbye, a reset

Script = Callable[["Asked"], "Reply"]


@dataclass(frozen=True)
class Asked:
    """One request as received."""

    head: bytes
    body: bytes
    connection: int  # the first is 1

    @property
    def method(self) -> str:
        return self.head.split(b" ", 1)[0].decode()

    @property
    def target(self) -> str:
        return self.head.split(b" ", 2)[1].decode("latin-1")

    @property
    def headers(self) -> dict[str, str]:
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


@dataclass(frozen=True)
class Reply:
    """The bytes to send, and what happens to the connection after them."""

    raw: bytes | Iterable[bytes]
    then: Literal["keep", "close", "reset"] = "keep"


CLOSE = Reply(b"", "close")
RESET = Reply(b"", "reset")


def http(
    status: int,
    body: bytes = b"",
    *headers: tuple[str, str],
    date: str | None = DATE,
    length: int | None = None,
) -> Reply:
    """Build a complete answer; if ``length`` is not the body's, the connection closes after it."""
    lines = [f"HTTP/1.1 {status} Said"]
    lines += [f"{name}: {value}" for name, value in headers]
    lines += [f"Date: {date}"] if date else []
    lines += [f"Content-Length: {len(body) if length is None else length}", "", ""]
    raw = "\r\n".join(lines).encode("latin-1") + body
    return Reply(raw, "keep" if length in (None, len(body)) else "close")


def json_reply(document: object, *headers: tuple[str, str], status: int = 200) -> Reply:
    return http(status, json.dumps(document).encode(), JSON_TYPE, *headers)


def zipped(body: bytes, *headers: tuple[str, str]) -> Reply:
    return http(200, gzip.compress(body), JSON_TYPE, ("Content-Encoding", "gzip"), *headers)


def recorded(
    name: str, *headers: tuple[str, str], status: int = 200, origin: str = ORIGIN
) -> Reply:
    """Load a file of ``mock_responses``, with its links changed to this origin."""
    body = (RESPONSES / name).read_bytes().replace(ORIGIN.encode(), origin.encode())
    return http(status, body, JSON_TYPE, *headers)


def in_turn(*replies: Reply) -> Script:
    """Send these replies one after the other, then repeat the last one."""
    lock = threading.Lock()
    left = list(replies)

    def script(_: Asked) -> Reply:
        with lock:
            return left.pop(0) if len(left) > 1 else left[0]

    return script


class LoopbackServer:
    """Answers by its script until the ``with`` block ends, with a thread for every connection.

    Args:
        script: What to answer; may be changed at any time.
        tls: Speak TLS with this certificate.
        tunnels: For a proxy: the certificate of each host that CONNECT may name.
    """

    def __init__(
        self,
        script: Script,
        tls: ssl.SSLContext | None = None,
        tunnels: dict[str, ssl.SSLContext] | None = None,
    ) -> None:
        self.script = script
        self.asked: list[Asked] = []
        self._tls = tls
        self._tunnels = tunnels or {}
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._closing = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    @property
    def origin(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def targets(self, method: str = "GET") -> list[str]:
        return [asked.target for asked in self.asked if asked.method == method]

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._closing = True
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), 5).close()  # ends the accept
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        self._listener.close()

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        number = 0
        while True:
            connection, _ = self._listener.accept()
            if self._closing:
                connection.close()
                return
            number += 1
            self._open.append(connection)
            self._start(self._serve, connection, number)

    def _serve(self, connection: socket.socket, number: int) -> None:
        # TLS that is refused and clients that hang up are what tests are about.
        with suppress(OSError, ValueError):
            if self._tls:
                connection = self._wrap(connection, self._tls)
            for asked in self._read(connection, number):
                with self._lock:
                    self.asked.append(asked)
                host = asked.target.partition(":")[0]
                if asked.method == "CONNECT" and host in self._tunnels:
                    connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                    self._serve_tunnel(self._wrap(connection, self._tunnels[host]), number)
                    break
                if not self._answer(connection, asked):
                    break
        connection.close()

    def _wrap(self, connection: socket.socket, tls: ssl.SSLContext) -> socket.socket:
        wrapped = tls.wrap_socket(connection, server_side=True)
        self._open.append(wrapped)
        return wrapped

    def _serve_tunnel(self, connection: socket.socket, number: int) -> None:
        with connection:
            for asked in self._read(connection, number):
                with self._lock:
                    self.asked.append(asked)
                if not self._answer(connection, asked):
                    break

    def _answer(self, connection: socket.socket, asked: Asked) -> bool:
        reply = self.script(asked)
        for part in [reply.raw] if isinstance(reply.raw, bytes) else reply.raw:
            connection.sendall(part)
        if reply.then == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        return reply.then == "keep"

    @staticmethod
    def _read(connection: socket.socket, number: int) -> Iterator[Asked]:
        buffer = b""
        while True:
            while b"\r\n\r\n" not in buffer:
                data = connection.recv(65536)
                if not data:
                    return
                buffer += data
            head, _, buffer = buffer.partition(b"\r\n\r\n")
            length = int(Asked(head, b"", number).headers.get("content-length", "0"))
            while len(buffer) < length:
                buffer += connection.recv(65536)
            yield Asked(head, buffer[:length], number)
            buffer = buffer[length:]


class Service:
    """A Web API on loopback that accepts every sign-in and answers reads by its script."""

    def __init__(self) -> None:
        self.server = LoopbackServer(self._answer)
        self.script: Script = in_turn(json_reply({"value": []}))
        self.challenge: Callable[[], Reply] = lambda: http(
            401, b"", ("WWW-Authenticate", self.bearer())
        )
        self.token: Callable[[], Reply] = self.new_token
        self.tokens = 0

    def _answer(self, asked: Asked) -> Reply:
        if asked.method == "POST":
            return self.token()
        return self.script(asked) if "authorization" in asked.headers else self.challenge()

    def bearer(self, origin: str = "") -> str:
        uri = f"{origin or self.server.origin}/{TENANT}/oauth2/authorize"
        return f"Bearer authorization_uri={uri}, resource_id={self.server.origin}/"

    def new_token(self, expires_in: object = 3599) -> Reply:
        self.tokens += 1
        return json_reply({"access_token": f"{TOKEN}-{self.tokens}", "expires_in": expires_in})

    def replies(self, *replies: Reply) -> None:
        self.script = in_turn(*replies)

    @property
    def api_url(self) -> str:
        return f"{self.server.origin}/api/data/v9.2/"

    @property
    def posts(self) -> list[Asked]:
        """Return the token requests."""
        return [asked for asked in self.server.asked if asked.method == "POST"]

    @property
    def data(self) -> list[Asked]:
        """Return the read requests in the order received."""
        return [asked for asked in self.server.asked if "authorization" in asked.headers]

    def request(self, entity: str = "accounts", **options: Any) -> PageRequest:
        return PageRequest(entity, self.api_url + entity, **options)


class FakeTime:
    """A clock that skips every wait and records its length."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.waits: list[float] = []

    def clock(self) -> float:
        return self.now

    def wait(self, condition: threading.Condition, seconds: float | None) -> object:
        if seconds is None:
            return condition.wait(10)
        self.waits.append(seconds)
        self.now += seconds
        return condition.wait(0)


class SlowTime:
    """A clock that a test advances, while threads really wait for it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.waiting: set[int] = set()  # threads that have waited

    def clock(self) -> float:
        return self.now

    def wait(self, condition: threading.Condition, _: float | None) -> object:
        self.waiting.add(threading.get_ident())
        return condition.wait(0.002)


def run_threads(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Run a function in several threads at once; return what each returned or raised."""
    results: list[Any] = [None] * count
    start = threading.Barrier(count)

    def run(number: int) -> None:
        start.wait(10)
        try:
            results[number] = work(number)
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 15
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    assert not any(thread.is_alive() for thread in threads)
    return results


NETWORK_VARIABLES: Sequence[str] = (
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NETRC",
)
