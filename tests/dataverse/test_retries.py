"""Retries against a server that misbehaves on order; only the clock is not real."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from loopback import (
    CLOSE,
    RESET,
    Asked,
    FakeTime,
    Reply,
    SlowTime,
    http,
    run_threads,
)

from dataverse.conftest import fetch
from dataverse_sync.dataverse.retries import LONGEST_WAIT_S, parse_retry_after
from dataverse_sync.dataverse.throttle import StoppedError
from dataverse_sync.dataverse.transport import Transport

NOON = datetime(2024, 5, 1, 12, 0, 0, tzinfo=UTC)
SCHEDULE = [1, 2, 4, 8, 16]
OK = http(200, b"{}")


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


@pytest.mark.parametrize("days_ahead", [-3000, -1, 0, 1, 3000])
def test_retry_after_date_counts_from_answers_date(
    serve: Any, transport: Transport, fake: FakeTime, days_ahead: int
) -> None:
    answered_at = NOON + timedelta(days=days_ahead)
    until = format_datetime(answered_at + timedelta(seconds=100), usegmt=True)
    date = format_datetime(answered_at, usegmt=True)
    server = serve(http(429, b"", ("Retry-After", until), date=date), OK)

    fetch(transport, server.origin + "/")

    assert fake.waits == [100]


@pytest.mark.parametrize("date", [None, "noon"])
def test_retry_after_date_counts_from_clock_without_date(
    serve: Any, transport: Transport, fake: FakeTime, date: str | None
) -> None:
    moment = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    server = serve(http(429, b"", ("Retry-After", moment), date=date), OK)

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

    assert has(lambda: len(slow.waiting) == 4)
    slow.now += 29.9
    slow.waiting.clear()
    assert has(lambda: len(slow.waiting) == 4)  # each has looked at the clock again
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

    answer = transport.get_answer(server.origin + "/")

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
