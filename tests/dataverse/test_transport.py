"""The transport against a server that misbehaves on order; only the clock is not real."""

from __future__ import annotations

import logging
import socket
import ssl
import string
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st
from loopback import (
    CLOSE,
    RESET,
    Asked,
    FakeTime,
    LoopbackServer,
    Reply,
    SlowTime,
    http,
    in_turn,
    run_threads,
    zipped,
)
from urllib3.exceptions import MaxRetryError, ProtocolError

from dataverse_sync.dataverse.retries import LONGEST_WAIT_S, Retries, parse_retry_after
from dataverse_sync.dataverse.throttle import StoppedError, Throttle
from dataverse_sync.dataverse.transport import HttpRequest, Transport, describe, read_answer
from dataverse_sync.errors import SyncError
from dataverse_sync.version import __version__

NOON = datetime(2024, 5, 1, 12, 0, 0, tzinfo=UTC)
SCHEDULE = [1, 2, 4, 8, 16]
OK = http(200, b"{}")
TOKEN = "a-token-that-goes-to-the-api-alone"


def fetch(transport: Transport, url: str, token: str = "") -> tuple[int, bytes]:
    """One request with a place in the throttle, and its whole body."""
    headers = {"Accept": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    transport.throttle.enter()
    try:
        answer = transport.fetch(
            HttpRequest("GET", url, headers),
            lambda response: read_answer(response, 2**20),
            Retries.start(transport.throttle),
        )
        return answer.status, answer.body
    finally:
        transport.throttle.leave(answered=True)


def has(condition: Callable[[], bool]) -> bool:
    """Whether this comes true within five seconds."""
    end = time.monotonic() + 5
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


# Retry-After


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7.0),
        (" 30 ", 30.0),
        ("0", 0.0),
        ("1.5", 1.5),
        ("Wed, 01 May 2024 12:00:45 GMT", 45.0),
        ("Wed, 01 May 2024 14:00:45 +0200", 45.0),
        ("Wed, 01 May 2024 12:00:45 -0000", 45.0),
        ("Wed, 01 May 2024 11:00:00 GMT", 0.0),
    ],
)
def test_retry_after_in_seconds_or_date(text: str, seconds: float) -> None:
    assert parse_retry_after(text, NOON) == seconds


@pytest.mark.parametrize(
    "text", [None, "", "soon", "-5", "1e9", "9" * 10, "Wed, 99 May 2024 12:00:45 GMT", "\u0663"]
)
def test_unusable_retry_after_is_none(text: str | None) -> None:
    assert parse_retry_after(text, NOON) is None


@settings(deadline=None)
@given(
    st.one_of(
        st.text(),
        st.from_regex(r"[A-Z][a-z]{2}, \d{1,5} [A-Z][a-z]{2} \d{1,6} [\d:]{0,9} ?([+-]\d+|GMT)?"),
        st.text(alphabet="0123456789:., -+GMTWedMay"),
    )
)
def test_any_retry_after_is_wait_or_none(text: str) -> None:
    seconds = parse_retry_after(text, NOON)

    assert seconds is None or 0 <= seconds < 1e12


# The throttle


class WouldWaitError(Exception):
    pass


def refuse_to_wait(_: threading.Condition, seconds: float | None) -> object:
    raise WouldWaitError(seconds)


@settings(deadline=None)
@given(
    st.integers(1, 8),
    st.lists(st.sampled_from(["enter", "answered", "unanswered", "close", "time"]), max_size=60),
)
def test_never_above_limit_none_while_closed(limit: int, events: list[str]) -> None:
    fake = FakeTime()
    throttle = Throttle(limit, fake.clock, refuse_to_wait)
    inside, closed_until = 0, 0.0

    for event in events:
        if event == "enter":
            try:
                throttle.enter()
            except WouldWaitError:
                assert fake.now < closed_until or inside >= throttle.allowed
            else:
                inside += 1
                assert fake.now >= closed_until
        elif event == "close" and inside:
            throttle.close(10)
            closed_until = fake.now + 10
        elif event == "time":
            fake.now += 4
        elif event in ("answered", "unanswered") and inside:
            throttle.leave(event == "answered")
            inside -= 1

        assert throttle.in_flight == inside <= limit
        assert 1 <= throttle.allowed <= limit


def test_thirty_threads_share_three_places() -> None:
    throttle = Throttle(3)
    lock = threading.Lock()
    inside: set[int] = set()
    most = 0

    def work(number: int) -> None:
        nonlocal most
        for _ in range(5):
            throttle.enter()
            with lock:
                inside.add(number)
                most = max(most, len(inside))
            time.sleep(0.001)
            with lock:
                inside.remove(number)
            throttle.leave(answered=True)

    results = run_threads(30, work)

    assert results == [None] * 30
    assert most == 3
    assert throttle.in_flight == 0


def test_several_429_halve_once(
    fake: FakeTime,
) -> None:
    throttle = Throttle(8, fake.clock, fake.wait)
    for _ in range(8):
        throttle.enter()
    seen = []

    for _ in range(5):
        throttle.close(10)
    halved = throttle.allowed
    for _ in range(8):
        throttle.leave(answered=False)
    for _ in range(30):
        throttle.enter()
        throttle.leave(answered=True)
        seen.append(throttle.allowed)

    assert halved == 4
    assert seen == [4] * 3 + [5] * 5 + [6] * 6 + [7] * 7 + [8] * 9  # six answers bring the seventh


@pytest.mark.parametrize("wait_s", [0, 1])
def test_burst_of_429_halves_once(serve: Any, make_transport: Any, wait_s: int) -> None:
    together, allowed = threading.Barrier(8), []
    refused = http(429, b"", ("Retry-After", str(wait_s)))

    def script(asked: Asked) -> Reply:
        if len(server.asked) <= 8:
            together.wait(10)
            time.sleep(0.02 * asked.connection)  # one after the other, each alone
            return refused
        allowed.append(transport.throttle.allowed)
        return OK

    server = serve(script=script)
    transport = make_transport(workers=8)
    answers = run_threads(8, lambda _: fetch(transport, server.origin + "/"))

    assert answers == [(200, b"{}")] * 8
    assert min(allowed) == 4


def test_late_429_does_not_halve_again(
    fake: FakeTime,
) -> None:
    throttle = Throttle(16, fake.clock, fake.wait)
    one, late, later = (ThreadPoolExecutor(1) for _ in range(3))
    seen = []

    def do(worker: ThreadPoolExecutor, work: Callable[..., None], *values: float) -> None:
        worker.submit(work, *values).result(5)
        seen.append(throttle.allowed)

    for _ in range(14):
        throttle.enter()
    for worker in (one, late):
        do(worker, throttle.enter)
    do(one, throttle.close, 10)
    fake.now += 11
    do(late, throttle.close, 10)  # the gate was open again when its 429 came
    closed = fake.now + 10
    for _ in range(10):
        throttle.leave(answered=False)
    do(later, throttle.enter)  # which waits for the gate
    do(later, throttle.close, 10)
    do(late, throttle.sleep, 1)  # what is sent after this wait is sent anew
    do(late, throttle.close, 10)
    for worker in (one, late, later):
        worker.shutdown()

    assert closed <= fake.now
    assert seen == [16, 16, 8, 8, 8, 3, 3, 1]


def test_unanswered_request_brings_no_place_back(fake: FakeTime) -> None:
    throttle = Throttle(2, fake.clock, fake.wait)
    throttle.enter()
    throttle.close(1)

    for _ in range(5):
        throttle.leave(answered=False)
        throttle.enter()

    assert throttle.allowed == 1


def test_waited_s_counts_closed_gate_once(fake: FakeTime) -> None:
    throttle = Throttle(2, fake.clock, fake.wait)

    throttle.close(10)
    throttle.close(10)
    fake.now += 4
    throttle.close(10)
    throttle.close(1)

    assert throttle.waited_s == 14


def test_sleeper_waits_for_the_gate(fake: FakeTime) -> None:
    throttle = Throttle(2, fake.clock, fake.wait)
    throttle.close(60)

    throttle.sleep(1)

    assert fake.now == 1060


def test_stop_wakes_every_waiter() -> None:
    closed, full, sleeping = Throttle(1), Throttle(1), Throttle(1)
    closed.close(3600)
    full.enter()
    throttles = [closed, full, sleeping]
    stopper = threading.Timer(0.1, lambda: [throttle.stop() for throttle in throttles])
    waits = [closed.enter, full.enter, lambda: sleeping.sleep(3600)]

    stopper.start()
    results = run_threads(3, lambda number: waits[number]())
    stopper.join()

    assert [type(result) for result in results] == [StoppedError] * 3


def test_nothing_passes_after_stop(fake: FakeTime) -> None:
    throttle = Throttle(1, fake.clock, fake.wait)

    throttle.stop()

    with pytest.raises(StoppedError):
        throttle.enter()
    with pytest.raises(StoppedError):
        throttle.sleep(0)


# Retries


def test_unanswered_request_follows_the_schedule(
    serve: Any, transport: Transport, fake: FakeTime
) -> None:
    server = serve(CLOSE)

    with pytest.raises(requests.ConnectionError):
        fetch(transport, server.origin + "/")

    assert fake.waits == SCHEDULE
    assert len(server.asked) == 6


def test_closed_port_is_tried_six_times(transport: Transport, fake: FakeTime) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    with pytest.raises(requests.ConnectionError, match="refused"):
        fetch(transport, f"http://127.0.0.1:{port}/")

    assert fake.waits == SCHEDULE


def test_silent_server_times_out_each_try(serve: Any, make_transport: Any, fake: FakeTime) -> None:
    silent = threading.Event()
    server = serve(script=lambda _: Reply(b"", "close") if silent.wait(10) else CLOSE)
    transport = make_transport(read_timeout_s=0.03)

    with pytest.raises(requests.ConnectionError, match="Read timed out"):
        fetch(transport, server.origin + "/")
    silent.set()

    assert fake.waits == SCHEDULE
    assert len(server.asked) == 6


@pytest.mark.parametrize("fault", [CLOSE, RESET, *map(http, (429, 500, 502, 503, 504))])
def test_last_retry_may_succeed(
    serve: Any, transport: Transport, fake: FakeTime, fault: Reply
) -> None:
    server = serve(*[fault] * 5, OK)

    answer = fetch(transport, server.origin + "/")

    assert answer == (200, b"{}")
    assert fake.waits == SCHEDULE


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 412, 413, 501])
def test_refusal_is_not_retried(
    serve: Any, transport: Transport, fake: FakeTime, status: int
) -> None:
    server = serve(http(status, b"no"), OK)

    answer = fetch(transport, server.origin + "/")

    assert answer == (status, b"no")
    assert fake.waits == []


def test_last_answer_returned_after_all_retries(serve: Any, transport: Transport) -> None:
    server = serve(*[http(503, b"first")] * 5, http(503, b"last"))

    answer = fetch(transport, server.origin + "/")

    assert answer == (503, b"last")


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_seconds_replace_the_schedule(
    serve: Any, transport: Transport, fake: FakeTime, status: int
) -> None:
    server = serve(http(status, b"", ("Retry-After", "37")), OK)

    fetch(transport, server.origin + "/")

    assert fake.waits == [37]


def test_retry_after_date_is_obeyed(serve: Any, transport: Transport, fake: FakeTime) -> None:
    moment = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    server = serve(http(429, b"", ("Retry-After", moment)), OK)

    fetch(transport, server.origin + "/")

    assert len(fake.waits) == 1
    assert 90 < fake.waits[0] <= 100


@pytest.mark.parametrize("asked", ["in a while", "0"])
def test_unusable_retry_after_leaves_the_schedule(
    serve: Any, transport: Transport, fake: FakeTime, asked: str
) -> None:
    server = serve(*[http(429, b"", ("Retry-After", asked))] * 3, OK)

    fetch(transport, server.origin + "/")

    assert fake.waits == [1, 2, 4]


@pytest.mark.parametrize("status", [429, 503])
def test_hour_of_retry_after_is_capped(
    serve: Any,
    transport: Transport,
    fake: FakeTime,
    status: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = serve(http(status, b"", ("Retry-After", "3600")), OK)

    fetch(transport, server.origin + "/")

    assert fake.waits == [LONGEST_WAIT_S]
    assert caplog.record_tuples == [
        (
            "dataverse_sync.dataverse.retries",
            logging.WARNING,
            "the service asks to wait 3600 s; asked again after 300 s",
        )
    ]


def test_ten_429_are_no_failures(serve: Any, transport: Transport, fake: FakeTime) -> None:
    server = serve(http(429, b"slow down", ("Retry-After", "2")))

    answer = fetch(transport, server.origin + "/")

    assert answer == (429, b"slow down")
    assert fake.waits == [2.0] * 15
    assert transport.throttle.waited_s == 30


def test_closed_gate_lets_no_request_out(serve: Any, make_transport: Any) -> None:
    slow = SlowTime()
    arrivals: list[float] = []

    def script(_: Asked) -> Reply:
        arrivals.append(slow.now)
        return http(429, b"", ("Retry-After", "30")) if len(arrivals) == 1 else OK

    server = serve(script=script)
    transport = make_transport(slow)
    first = threading.Thread(target=fetch, args=(transport, server.origin + "/1"))
    first.start()
    assert has(lambda: transport.throttle.waited_s == 30)
    others = [
        threading.Thread(target=fetch, args=(transport, f"{server.origin}/{n}")) for n in (2, 3, 4)
    ]
    for thread in others:
        thread.start()

    time.sleep(0.05)
    slow.now += 29.9
    time.sleep(0.05)
    before = len(arrivals)
    slow.now += 0.2
    for thread in [first, *others]:
        thread.join(5)

    assert before == 1
    assert len(arrivals) == 5
    assert min(arrivals[1:]) >= 1030


def test_throttled_requests_stay_within_limit(
    serve: Any, make_transport: Any, fake: FakeTime
) -> None:
    lock = threading.Lock()
    inside, most, count = 0, 0, 0

    def script(_: Asked) -> Reply:
        nonlocal inside, most, count
        with lock:
            inside, count = inside + 1, count + 1
            most, throttled = max(most, inside), count % 3 == 0
        time.sleep(0.005)
        with lock:
            inside -= 1
        return http(429, b"", ("Retry-After", "1")) if throttled else OK

    server = serve(script=script)
    transport = make_transport(workers=6)

    answers = run_threads(12, lambda n: [fetch(transport, server.origin + "/") for _ in range(3)])

    assert answers == [[(200, b"{}")] * 3] * 12
    assert most <= 6
    assert transport.throttle.in_flight == 0


def test_short_fault_keeps_its_connection(serve: Any, transport: Transport) -> None:
    def endless() -> Iterator[bytes]:
        yield b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n"
        while True:
            yield b"10000\r\n" + b" " * 2**16 + b"\r\n"

    server = serve(Reply(endless()), http(503, b"busy"), http(429, b"busy"), OK)

    answer = fetch(transport, server.origin + "/")

    assert answer == (200, b"{}")
    assert [asked.connection for asked in server.asked] == [1, 2, 2, 2]


def test_stop_ends_request_between_retries(serve: Any, make_transport: Any) -> None:
    server = serve(http(503))
    transport = make_transport(SlowTime())
    stopper = threading.Thread(
        target=lambda: has(lambda: len(server.asked) == 1) and transport.throttle.stop()
    )

    stopper.start()
    with pytest.raises(StoppedError):
        fetch(transport, server.origin + "/")
    stopper.join()

    assert len(server.asked) == 1


def test_sign_in_request_leaves_gate_alone(
    serve: Any, transport: Transport, fake: FakeTime
) -> None:
    server = serve(http(429, b"", ("Retry-After", "5")), OK)

    answer = transport.get_answer("GET", server.origin + "/")

    assert answer.status == 200
    assert fake.waits == [5]
    assert transport.throttle.allowed == 8
    assert transport.throttle.waited_s == 0
    assert transport.throttle.in_flight == 0


def test_every_try_is_counted_once(serve: Any, transport: Transport) -> None:
    server = serve(CLOSE, http(503), http(429), OK)
    before = transport.sent

    fetch(transport, server.origin + "/")

    assert transport.sent - before == 4


# What goes out

NEXT_LINK = (
    "/api/data/v9.2/contacts?$select=fullname&$skiptoken=%3Ccookie%20pagenumber=%222%22%20"
    "pagingcookie=%22%253ccookie%2520page%253d%25221%2522%253e%2f%2F%252f%22%20/%3E&=&lone="
)


def test_url_goes_out_byte_for_byte(serve: Any, transport: Transport) -> None:
    server = serve(CLOSE, http(503), OK)

    fetch(transport, server.origin + NEXT_LINK)

    assert [asked.head.split(b"\r\n")[0] for asked in server.asked] == [
        f"GET {NEXT_LINK} HTTP/1.1".encode()
    ] * 3


PRINTABLE = string.ascii_letters + string.digits + "%/?:@!$&'()*+,;=-._~[]{}|\\^`\"<>"


@settings(deadline=None, max_examples=60)
@given(st.text(alphabet=PRINTABLE, max_size=40))
def test_printable_url_goes_out_verbatim(text: str) -> None:
    fake = FakeTime()
    transport = Transport(Throttle(1, fake.clock, fake.wait), 5, 5)
    target = "/api/data/v9.2/accounts?" + text

    with LoopbackServer(in_turn(OK)) as server:
        fetch(transport, server.origin + target)
    transport.close()

    assert server.targets() == [target]


@pytest.mark.parametrize("text", ["a b", "é", "a\r\nX-Injected: 1", "a\tb"])
def test_unsafe_characters_are_quoted(serve: Any, transport: Transport, text: str) -> None:
    server = serve(OK)

    fetch(transport, server.origin + "/accounts?name=" + text)

    assert " " not in server.asked[0].target
    assert "x-injected" not in server.asked[0].headers


def test_fragment_is_not_sent(serve: Any, transport: Transport) -> None:
    server = serve(OK)

    fetch(transport, server.origin + "/accounts?a=%2f#part")

    assert server.targets() == ["/accounts?a=%2f"]


def test_request_carries_only_its_headers(serve: Any, transport: Transport) -> None:
    server = serve(OK)

    fetch(transport, server.origin + "/", TOKEN)

    assert server.asked[0].headers == {
        "host": f"127.0.0.1:{server.port}",
        "user-agent": f"dataverse-sync/{__version__}",
        "accept-encoding": "gzip",
        "accept": "application/json",
        "authorization": f"Bearer {TOKEN}",
    }


def test_cookie_is_not_sent_back(serve: Any, transport: Transport) -> None:
    server = serve(http(200, b"", ("Set-Cookie", "ARRAffinity=0a1b2c; Path=/; HttpOnly")))

    fetch(transport, server.origin + "/")
    fetch(transport, server.origin + "/")

    assert "cookie" not in server.asked[1].headers


def test_redirect_gets_no_token(serve: Any, transport: Transport) -> None:
    elsewhere = serve(OK)
    server = serve(http(302, b"", ("Location", elsewhere.origin + "/")))

    status, _ = fetch(transport, server.origin + "/", TOKEN)

    assert status == 302
    assert elsewhere.asked == []


def test_netrc_file_is_not_used(
    serve: Any, transport: Transport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1\nlogin someone\npassword something\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HOME", str(tmp_path))
    server = serve(OK)

    assert requests.get(server.origin, timeout=5).ok  # requests itself does use it
    fetch(transport, server.origin + "/")

    assert "authorization" in server.asked[0].headers
    assert "authorization" not in server.asked[1].headers


def test_credentials_in_link_are_not_sent(serve: Any, transport: Transport) -> None:
    server = serve(OK)
    link = server.origin.replace("://", "://me:word@") + "/"

    fetch(transport, link)
    fetch(transport, link, "token")

    assert [asked.headers.get("authorization") for asked in server.asked] == [None, "Bearer token"]


def test_proxies_are_looked_up_once(
    serve: Any, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    look = requests.Session.merge_environment_settings

    def count(session: requests.Session, url: str, *args: Any) -> Any:
        asked.append(url)
        return look(session, url, *args)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(requests.Session, "merge_environment_settings", count)
    server = serve(OK)

    for _ in range(3):
        thread = threading.Thread(target=fetch, args=(transport, server.origin + "/"))
        thread.start()
        thread.join(5)

    assert len(server.asked) == 3
    assert len(asked) == 1


def test_proxy_not_used_for_loopback(
    serve: Any, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, server = serve(OK), serve(OK)
    monkeypatch.setenv("HTTP_PROXY", proxy.origin)
    monkeypatch.setenv("http_proxy", proxy.origin)

    fetch(transport, server.origin + "/")

    assert proxy.asked == []
    assert len(server.asked) == 1


def test_zipped_answer_is_unzipped(serve: Any, transport: Transport) -> None:
    server = serve(zipped(b'{"value":[]}'))

    _, body = fetch(transport, server.origin + "/")

    assert body == b'{"value":[]}'


def test_thread_keeps_its_own_connection(serve: Any, transport: Transport) -> None:
    server = serve(OK)

    run_threads(3, lambda n: [fetch(transport, f"{server.origin}/{n}") for _ in range(4)])

    used = {(asked.target, asked.connection) for asked in server.asked}
    assert len(server.asked) == 12
    assert len(used) == 3


# TLS


def tls_of(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


def trust(authority: trustme.CA, variable: str, monkeypatch: pytest.MonkeyPatch, at: Path) -> None:
    authority.cert_pem.write_to_path(str(at / "ca.pem"))
    monkeypatch.setenv(variable, str(at / "ca.pem"))


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_own_authority_trusted_by_environment(
    serve: Any,
    transport: Transport,
    authority: trustme.CA,
    variable: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trust(authority, variable, monkeypatch, tmp_path)
    server = serve(OK, tls=tls_of(authority.issue_cert("127.0.0.1")))

    answers = [fetch(transport, server.origin + NEXT_LINK) for _ in range(2)]

    assert answers == [(200, b"{}")] * 2
    assert server.targets() == [NEXT_LINK] * 2


def test_threads_share_the_trust_store(
    serve: Any,
    transport: Transport,
    authority: trustme.CA,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trust(authority, "SSL_CERT_FILE", monkeypatch, tmp_path)
    server = serve(OK, tls=tls_of(authority.issue_cert("127.0.0.1")))

    answers = run_threads(4, lambda _: fetch(transport, server.origin + "/"))

    assert answers == [(200, b"{}")] * 4
    assert {asked.connection for asked in server.asked} == {1, 2, 3, 4}


def issue(authority: trustme.CA, fault: str) -> ssl.SSLContext:
    if fault == "expired":
        past = datetime.now(UTC) - timedelta(days=1)
        return tls_of(
            authority.issue_cert("127.0.0.1", not_before=past - timedelta(days=30), not_after=past)
        )
    if fault == "wrong name":
        return tls_of(authority.issue_cert("org.api.crm.dynamics.com", "10.0.0.1"))
    return tls_of(trustme.CA().issue_cert("127.0.0.1"))


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("expired", "certificate has expired"),
        ("wrong name", "IP address mismatch"),
        ("unknown authority", "unable to get local issuer"),
    ],
)
def test_bad_certificate_is_refused_at_once(
    serve: Any,
    transport: Transport,
    fake: FakeTime,
    authority: trustme.CA,
    fault: str,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trust(authority, "SSL_CERT_FILE", monkeypatch, tmp_path)
    server = serve(OK, tls=issue(authority, fault))

    with pytest.raises(requests.exceptions.SSLError, match=reason):
        fetch(transport, server.origin + "/", TOKEN)

    assert fake.waits == []
    assert server.asked == []


def test_self_signed_certificate_is_refused(
    serve: Any, transport: Transport, fake: FakeTime, tmp_path: Path
) -> None:
    nobody = trustme.CA()
    pem = tmp_path / "self.pem"
    pem.write_bytes(nobody.private_key_pem.bytes() + nobody.cert_pem.bytes())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server = serve(OK, tls=context)

    with pytest.raises(requests.exceptions.SSLError, match="self-signed certificate"):
        fetch(transport, server.origin + "/", TOKEN)

    assert fake.waits == []
    assert server.asked == []


def test_proxy_keeps_url_and_verification(
    serve: Any,
    transport: Transport,
    fake: FakeTime,
    authority: trustme.CA,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trust(authority, "SSL_CERT_FILE", monkeypatch, tmp_path)
    right, wrong = "org.api.crm.dynamics.com", "other.api.crm.dynamics.com"
    tls = tls_of(authority.issue_cert(right))
    proxy, here = serve(OK, tunnels={right: tls, wrong: tls}), serve(OK)
    monkeypatch.setenv("HTTPS_PROXY", proxy.origin)

    fetch(transport, here.origin + "/")
    answer = fetch(transport, f"https://{right}{NEXT_LINK}", TOKEN)
    with pytest.raises(requests.RequestException, match=r"[Cc]ertificate.*other"):
        fetch(transport, f"https://{wrong}/", TOKEN)

    assert answer == (200, b"{}")
    assert fake.waits == []
    assert [(asked.method, asked.target) for asked in proxy.asked] == [
        ("CONNECT", f"{right}:443"),
        ("GET", NEXT_LINK),
        ("CONNECT", f"{wrong}:443"),
    ]
    assert "authorization" not in proxy.asked[0].headers


# Words for errors


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(OSError("the heart of it.")), "the heart of it"),
        (ProtocolError("Connection aborted.", OSError("reset by peer")), "reset by peer"),
        (MaxRetryError(None, "/", OSError("no route to host")), "no route to host"),  # type: ignore[arg-type]
        (OSError(OSError(OSError(OSError(OSError(OSError(OSError("deep"))))))), "deep"),
        (OSError(), "OSError"),
        (SyncError("what"), "what"),
        (OSError("<urllib3.connection.HTTPConnection object at 0x7f>: refused"), "refused"),
        (OSError("HTTPSConnectionPool(host='org', port=443): Read timed out."), "Read timed out"),
    ],
)
def test_network_error_described_by_its_cause(error: Exception, text: str) -> None:
    assert describe(error) == text
