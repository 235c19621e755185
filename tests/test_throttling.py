"""A service that limits requests, at once and in a window: the sync completes all the same.

The waits are the service's own, of a second, over real sockets.
"""

from __future__ import annotations

from typing import Any

from conftest import World, insert

from dataverse_sync import EntityConfig, run_sync
from dataverse_sync.emulator import Column, Limits, Table
from dataverse_sync.summary import format_summary

SETS = 40
TABLES = [
    Table(f"vin_t{n:02d}", f"vin_t{n:02d}s", f"vin_t{n:02d}id", [Column("vin_name", "String")])
    for n in range(SETS)
]
ENTITIES = [EntityConfig(table.entity_set) for table in TABLES]


def test_forty_entity_sets_complete_under_tight_limits(make_world: Any) -> None:
    world: World = make_world(
        TABLES, limits=Limits(in_flight=10, requests=30, window_s=1.0), latency_s=0.02
    )
    for table in TABLES:
        insert(world.emulator, table.entity_set, [{"vin_name": "a"}, {"vin_name": "b"}])

    report = run_sync(world.config(workers=50), ENTITIES)

    assert report.ok
    assert world.is_mirror(*(table.entity_set for table in TABLES))
    log = world.emulator.log
    refused = [request for request in log if request.status == 429]
    assert refused
    assert report.waited_s > 0
    assert any(line.startswith("Waited ") for line in format_summary(report))
    # Nothing goes out while the gate is closed: for a second after each refusal, less what
    # was already on its way when the refusal arrived.
    for one in refused:
        closed = (one.ended_at + 0.3, one.ended_at + 0.9)
        assert not [request for request in log if closed[0] < request.began_at < closed[1]]


def test_never_more_requests_are_in_flight_than_workers(make_world: Any) -> None:
    world: World = make_world(TABLES, latency_s=0.05)

    run_sync(world.config(workers=7), ENTITIES)

    assert world.emulator.most_in_flight == 7
