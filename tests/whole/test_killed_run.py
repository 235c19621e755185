"""A killed run looks the same in ``status``, the report and ``check``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from conftest import ENTITIES, World

from dataverse_sync.commands.check import run_check
from dataverse_sync.commands.findings import Finding
from dataverse_sync.commands.status import format_status, load_status, to_document
from dataverse_sync.redaction import Redactor
from dataverse_sync.show.report import write_report
from dataverse_sync.store.run_lock import hold
from dataverse_sync.store.sync_state import DIED


@pytest.fixture
def left(world: World) -> World:
    """A synced world whose second run was killed while it read accounts."""
    world.sync()
    world.execute("UPDATE _sync_state SET state = 'in_progress' WHERE entity_name = 'accounts'")
    world.execute(
        "INSERT INTO _sync_log (run_id, entity_name, started_at, status, records_fetched, "
        "records_added, records_updated, records_unchanged, records_deleted, requests) "
        "VALUES ('killed', 'accounts', '2026-11-23T02:00:00.000Z', 'in_progress', 0, 0, 0, 0, 0, 1)"
    )
    return world


def look_at_status(world: World) -> tuple[dict[str, Any], list[str]]:
    status = load_status(world.db_path, datetime.now(UTC))
    assert status is not None
    return to_document(status)["entities"][0], format_status(status)


def look_at_report(world: World) -> str:
    path = world.folder / "report.html"
    write_report(world.db_path, path, datetime.now(UTC))
    return path.read_text(encoding="utf-8")


def look_at_check(world: World) -> Finding:
    findings = run_check(world.config(), ENTITIES, [], Redactor())
    return next(finding for finding in findings if finding.what == "database")


@contextmanager
def unchanged_tables(world: World) -> Iterator[None]:
    tables = ("_sync_state", "_sync_log")
    before = [world.query(f"SELECT * FROM {table}") for table in tables]
    yield
    assert [world.query(f"SELECT * FROM {table}") for table in tables] == before


def test_killed_run_looks_the_same_everywhere(left: World) -> None:
    with unchanged_tables(left):
        accounts, lines = look_at_status(left)
        page = look_at_report(left)
        database = look_at_check(left)

    assert (accounts["entity"], accounts["state"]) == ("accounts", "failed")
    assert accounts["error"] == f"accounts: {DIED}"
    assert (accounts["last_run"]["status"], accounts["last_run"]["error"]) == ("failed", DIED)
    assert f"Failed: accounts: {DIED}" in lines
    assert lines[-1].startswith("4 of 5 entities completed")
    assert "The last run failed for 1 of 1 table" in page
    assert f"accounts: {DIED}" in page
    assert "in progress" not in page
    assert f"{DIED}, the next run resumes accounts" in database.text
    assert database.details["failed"] == database.details["unfinished"] == ["accounts"]


def test_running_sync_looks_same_everywhere(left: World) -> None:
    with unchanged_tables(left), hold(left.db_path, datetime.now(UTC)):
        accounts, lines = look_at_status(left)
        page = look_at_report(left)
        database = look_at_check(left)

    assert (accounts["state"], accounts["error"]) == ("in_progress", None)
    assert accounts["last_run"]["status"] == "in_progress"
    assert any(line.startswith("A run is under way: process ") for line in lines)
    assert "A run is under way since" in page
    assert "in use by process " in database.text
    assert not any(DIED in text for text in ("".join(lines), page, database.text))


def test_next_run_completes_killed_entity(left: World) -> None:
    left.sync()

    accounts, _ = look_at_status(left)

    assert (accounts["state"], accounts["error"]) == ("completed", None)
    assert DIED in look_at_report(left)  # among the earlier failures
    assert look_at_check(left).details["failed"] == []
