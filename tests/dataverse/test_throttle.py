"""The throttle: how many requests pass at once, and none while it is closed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loopback import (
    Asked,
    FakeTime,
    Reply,
    http,
    run_threads,
)

from dataverse.conftest import fetch
from dataverse_sync.dataverse.throttle import StoppedError, Throttle

OK = http(200, b"{}")


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
