"""``status``: what the database knows, offline, also while a sync writes it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from conftest import ENTITIES, World

from dataverse_sync.commands.status import (
    find_too_old,
    find_unproven,
    format_status,
    load_status,
    parse_age,
    to_document,
)
from dataverse_sync.emulator import Fault
from dataverse_sync.errors import ConfigError
from dataverse_sync.moments import to_text
from dataverse_sync.store.database import open_target, transaction
from dataverse_sync.store.run_lock import hold

NOW = datetime(2026, 11, 23, 2, tzinfo=UTC)


def test_no_status_without_database(tmp_path: Path) -> None:
    assert load_status(tmp_path / "dataverse.db", NOW) is None
    assert list(tmp_path.iterdir()) == []


def test_file_that_is_not_a_database(tmp_path: Path) -> None:
    path = tmp_path / "dataverse.db"
    path.write_text("not a database, but long enough to have a header", encoding="utf-8")

    with pytest.raises(ConfigError, match="not a SQLite database"):
        load_status(path, NOW)


def test_database_of_another_program(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with open_target(path).open_writer() as connection, transaction(connection):
        connection.exec_driver_sql("CREATE TABLE t (a)")

    status = load_status(path, NOW)

    assert status is not None
    assert status.entities == ()
    assert format_status(status)[-1] == "Nothing was synced into it yet."


def test_entity_state_rows_and_bookmark(world: World) -> None:
    world.sync()
    now = datetime.now(UTC)

    status = load_status(world.db_path, now)

    assert status is not None
    found = {entity.entity: entity for entity in status.entities}
    candidates = found["vin_candidates"]
    assert (candidates.state, candidates.rows) == ("completed", 12)
    assert candidates.bookmark == "2024-01-01T00:00:00Z"
    assert candidates.age_s is not None
    assert 0 <= candidates.age_s < 60
    assert candidates.last_run is not None
    assert candidates.last_run.counts.added == 12
    assert found["vin_vin_candidate_accountset"].bookmark is None
    assert status.running is None


def test_newest_run_is_last_run(world: World) -> None:
    world.sync()
    world.sync()

    status = load_status(world.db_path, datetime.now(UTC))

    assert status is not None
    assert [e.last_run.counts.added for e in status.entities if e.last_run] == [0] * 5


def test_failure_shown(world: World) -> None:
    world.emulator.control.fault(Fault("status", match="vin_products", status=403, times=99))
    world.sync()

    status = load_status(world.db_path, datetime.now(UTC))

    assert status is not None
    lines = format_status(status)
    assert any(line.startswith("Failed: vin_products") for line in lines)
    assert any("vin_products" in line and line.endswith("failed") for line in lines)


def test_status_while_sync_runs(world: World) -> None:
    world.sync()

    with (
        hold(world.db_path, NOW),
        open_target(world.db_path).open_writer() as writer,
        transaction(writer),
    ):
        writer.exec_driver_sql("UPDATE _sync_state SET records_count = 99")
        status = load_status(world.db_path, NOW)

    assert status is not None
    assert status.running is not None
    assert "since 2026-11-23T02:00:00+00:00" in status.running
    assert {entity.rows for entity in status.entities} == {12, 8, 2, 1}
    assert any(line.startswith("A run is under way") for line in format_status(status))


def test_entity_without_recent_success_too_old(world: World) -> None:
    world.sync(ENTITIES[:2])
    now = datetime.now(UTC)

    status = load_status(world.db_path, now + timedelta(hours=27), ["vin_candidates"])

    assert status is not None
    assert [e.entity for e in find_too_old(status, timedelta(hours=26))] == ["vin_candidates"]
    assert find_too_old(status, timedelta(hours=28)) == []
    assert any("vin_products (not configured)" in line for line in format_status(status))


def test_entity_without_success_too_old(world: World) -> None:
    world.emulator.control.fault(Fault("status", match="vin_products", status=403, times=99))
    world.sync()

    status = load_status(world.db_path, datetime.now(UTC))

    assert status is not None
    assert [e.entity for e in find_too_old(status, timedelta(days=9))] == ["vin_products"]


def test_last_proof_is_told(world: World) -> None:
    world.sync()
    now = datetime.now(UTC)
    rows = [
        ("1", "vin_candidates", "2026-11-01T00:00:00.000Z", "same"),
        ("2", "vin_candidates", "2026-11-02T00:00:00.000Z", "differs"),
        ("1", "vin_products", "2026-11-01T00:00:00.000Z", "failed"),
        ("3", "accounts", to_text(now - timedelta(days=7)), "same"),
    ]
    for row in rows:
        world.execute(
            "INSERT INTO _sync_verify (run_id, entity_name, verified_at, status, rows, missing, "
            "stale, surplus, altered) VALUES (?, ?, ?, ?, 0, 0, 0, 0, 0)",
            *row,
        )

    status = load_status(world.db_path, now, ["vin_candidates", "vin_products", "accounts"])

    assert status is not None
    proven = {entity.entity: entity.last_proven for entity in status.entities}
    assert proven["vin_candidates"] == "2026-11-01T00:00:00.000Z"
    assert proven["vin_products"] is None
    assert proven["contacts"] is None
    unproven = [entity.entity for entity in find_unproven(status, timedelta(days=8))]
    assert unproven == ["vin_candidates", "vin_products"]
    assert any(" 7 d " in line for line in format_status(status))


def test_database_without_proofs_is_read(world: World) -> None:
    world.sync()
    world.execute("DROP TABLE _sync_verify")

    status = load_status(world.db_path, NOW)

    assert status is not None
    assert {entity.last_proven for entity in status.entities} == {None}


def test_document_holds_everything(world: World) -> None:
    world.sync()
    status = load_status(world.db_path, datetime.now(UTC))
    assert status is not None

    document = to_document(status)

    assert document["database"] == str(world.db_path)
    assert document["running"] is None
    accounts = document["entities"][0]
    stored = world.query(
        "SELECT run_id, started_at, finished_at, status, records_fetched, records_added, "
        "records_updated, records_unchanged, records_deleted, requests, error "
        "FROM _sync_log WHERE entity_name = 'accounts'"
    )
    assert [tuple(accounts["last_run"].values())] == stored
    assert list(accounts["last_run"])[4:6] == ["records_fetched", "records_added"]
    assert accounts["last_success"] == world.state("accounts", "last_sync_time")
    assert json.loads(json.dumps(document))["entities"][0] == accounts


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90m", 5400), ("26h", 93600), ("2d", 172800), ("45s", 45), ("1.5h", 5400)],
)
def test_max_age_read(text: str, seconds: float) -> None:
    assert parse_age(text).total_seconds() == seconds


@pytest.mark.parametrize("text", ["", "26", "h", "26 h", "-1h", "1w", "26h30m"])
def test_max_age_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration such as"):
        parse_age(text)
