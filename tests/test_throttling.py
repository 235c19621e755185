"""A service that limits requests, at once and in a window: the sync completes all the same.

The waits are the service's own, of a second, over real sockets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from conftest import World, insert

from dataverse_sync import EntityConfig, SyncReport, run_sync
from dataverse_sync.emulator import Column, Limits, LoggedRequest, Table
from dataverse_sync.summary import format_summary

SETS = 40
ARRIVED_S = 0.2  # what a refusal, and what left before it was read, may take on the way
TABLES = [
    Table(f"vin_t{n:02d}", f"vin_t{n:02d}s", f"vin_t{n:02d}id", [Column("vin_name", "String")])
    for n in range(SETS)
]
ENTITIES = [EntityConfig(table.entity_set) for table in TABLES]


# Dataverse allows 52 requests at once, and in five minutes 6,000 of them and 1,200 s of execution.
SMALL_WINDOWS = {
    "at once": Limits(in_flight=10, window_s=1.0),
    "requests": Limits(requests=60, window_s=1.0),
    "all of them": Limits(in_flight=10, requests=60, execution_s=1.5, window_s=1.0),
}


def sync_throttled(world: World, workers: int) -> tuple[SyncReport, list[LoggedRequest]]:
    """Sync forty sets of three pages each; the 429s that it met."""
    for table in TABLES:
        insert(world.emulator, table.entity_set, [{"vin_name": str(n)} for n in range(12)])
    report = run_sync(world.config(workers=workers), ENTITIES)
    assert report.ok
    assert world.is_mirror(*(table.entity_set for table in TABLES))
    return report, [request for request in world.emulator.log if request.status == 429]


def closed_spans(refused: Sequence[LoggedRequest]) -> list[tuple[float, float]]:
    """From when until when nothing may be sent, by what the service answered."""
    spans = []
    for request in refused:
        assert request.ended_at is not None
        assert request.retry_after is not None
        spans.append((request.ended_at, request.ended_at + float(request.retry_after)))
    return sorted(spans)


def sent_while_closed(log: Sequence[LoggedRequest]) -> list[LoggedRequest]:
    """What left after a refusal was known and before it had ended; sign-in has no limits."""
    spans = closed_spans([request for request in log if request.status == 429])
    return [
        request
        for request in log
        if request.kind != "token"
        and any(start + ARRIVED_S < request.began_at < end for start, end in spans)
    ]


def closed_s(refused: Sequence[LoggedRequest]) -> float:
    """For how long at least one refusal held."""
    total, end = 0.0, 0.0
    for start, until in closed_spans(refused):
        total += max(0.0, until - max(start, end))
        end = max(end, until)
    return total


@pytest.mark.parametrize("kind", SMALL_WINDOWS)
def test_forty_entity_sets_complete_under_a_limit(make_world: Any, kind: str) -> None:
    world: World = make_world(TABLES, limits=SMALL_WINDOWS[kind], latency_s=0.05)

    report, refused = sync_throttled(world, workers=50)

    assert refused
    assert sent_while_closed(world.emulator.log) == []
    assert world.emulator.most_in_flight <= 50
    assert report.waited_s == pytest.approx(closed_s(refused), abs=1)
    said = f"Waited {report.waited_s:.0f} s because the service was busy (429)."
    assert said in format_summary(report)


def test_the_limits_of_dataverse_itself_with_a_budget_that_runs_out(make_world: Any) -> None:
    # As much of it for each second of the window: four requests that are always busy.
    limits = Limits(in_flight=52, requests=6000, execution_s=4.0, window_s=1.0)
    world: World = make_world(TABLES, limits=limits, latency_s=0.1)

    _, refused = sync_throttled(world, workers=50)

    assert refused
    assert sent_while_closed(world.emulator.log) == []
    assert world.emulator.most_in_flight <= 50


def test_never_more_requests_are_in_flight_than_workers(make_world: Any) -> None:
    world: World = make_world(TABLES, latency_s=0.05)

    run_sync(world.config(workers=7), ENTITIES)

    assert world.emulator.most_in_flight == 7
