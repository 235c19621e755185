"""A sync completes although the service limits requests at once and in a window.

The waits are the service's own, of seconds, over real sockets.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest
from conftest import World, insert

from dataverse_sync import EntityConfig, SyncReport, run_sync
from dataverse_sync.dataverse.throttle import Throttle
from dataverse_sync.emulator import Column, Limits, LoggedRequest, Table
from dataverse_sync.show.text import format_summary

pytestmark = pytest.mark.slow

SETS = 40
TABLES = [
    Table(f"vin_t{n:02d}", f"vin_t{n:02d}s", f"vin_t{n:02d}id", [Column("vin_name", "String")])
    for n in range(SETS)
]
ENTITIES = [EntityConfig(table.entity_set) for table in TABLES]


# Dataverse allows 52 requests at once, and in five minutes 6,000 of them and 1,200 s of execution.
# The requests are so few that a busy machine sends more of them in the window too.
SMALL_WINDOWS = {
    "at once": Limits(in_flight=10, window_s=1.0),
    "requests": Limits(requests=90, window_s=3.0),
    "all of them": Limits(in_flight=10, requests=60, execution_s=1.5, window_s=1.0),
}


class Gate(Throttle):
    """The run's gate; records when a request passed, and when the gate was closed.

    The moments are those it decided by, read under its lock, so no load of this machine
    puts one of them into the wrong order.
    """

    def __init__(self, limit: int) -> None:
        self._read = threading.local()
        self.passed: list[float] = []
        self.closed: list[tuple[float, float]] = []
        super().__init__(limit, self._note_time)

    def _note_time(self) -> float:
        self._read.at = time.monotonic()
        return self._read.at

    def enter(self) -> None:
        super().enter()
        self.passed.append(self._read.at)

    def close(self, wait_s: float) -> None:
        super().close(wait_s)
        self.closed.append((self._read.at, self._read.at + wait_s))

    def passed_while_closed(self) -> list[float]:
        return [at for at in self.passed if any(start < at < end for start, end in self.closed)]


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    made = Gate(50)
    monkeypatch.setattr("dataverse_sync.dataverse.session.Throttle", lambda _: made)
    return made


def sync_throttled(world: World) -> tuple[SyncReport, list[LoggedRequest]]:
    """Sync 40 sets of 3 pages each; return the report and the requests refused with 429."""
    for table in TABLES:
        insert(world.emulator, table.entity_set, [{"vin_name": str(n)} for n in range(12)])
    report = run_sync(world.config(workers=50), ENTITIES)
    assert report.ok
    assert world.is_mirror(*(table.entity_set for table in TABLES))
    return report, [request for request in world.emulator.log if request.status == 429]


def assert_gate_held(gate: Gate, world: World, refused: Sequence[LoggedRequest]) -> None:
    """Check that all requests passed the gate, each 429 closed it, none passed while closed."""
    sent = [one for one in world.emulator.log if one.kind not in ("challenge", "token")]
    assert len(gate.passed) == len(sent)
    asked_s = [float(request.retry_after or 0) for request in refused]
    assert sorted(end - start for start, end in gate.closed) == pytest.approx(sorted(asked_s))
    assert gate.passed_while_closed() == []


def closed_s(gate: Gate) -> float:
    """Return the seconds in which the gate was closed."""
    total, end = 0.0, 0.0
    for start, until in sorted(gate.closed):
        total += max(0.0, until - max(start, end))
        end = max(end, until)
    return total


@pytest.mark.parametrize("kind", SMALL_WINDOWS)
def test_forty_entity_sets_complete_under_limit(make_world: Any, gate: Gate, kind: str) -> None:
    world: World = make_world(TABLES, limits=SMALL_WINDOWS[kind], latency_s=0.05)

    report, refused = sync_throttled(world)

    assert refused
    assert_gate_held(gate, world, refused)
    assert world.emulator.most_in_flight <= 50
    assert report.waited_s == pytest.approx(closed_s(gate))
    said = f"Waited {report.waited_s:.0f} s because the service was busy (429)."
    assert said in format_summary(report)


def test_sync_completes_under_dataverse_limits(make_world: Any, gate: Gate) -> None:
    # As much of it for each second of the window: four requests that are always busy.
    limits = Limits(in_flight=52, requests=6000, execution_s=4.0, window_s=1.0)
    world: World = make_world(TABLES, limits=limits, latency_s=0.1)

    _, refused = sync_throttled(world)

    assert refused
    assert_gate_held(gate, world, refused)
    assert world.emulator.most_in_flight <= 50


def test_requests_in_flight_bounded_by_workers(make_world: Any) -> None:
    world: World = make_world(TABLES, latency_s=0.05)

    run_sync(world.config(workers=7), ENTITIES)

    assert world.emulator.most_in_flight == 7
