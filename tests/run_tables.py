"""Invented rows for the program's own tables, for tests of status, report and check."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert

from dataverse_sync.moments import to_text
from dataverse_sync.store.database import open_target, prepare_own_tables
from dataverse_sync.store.deletions import DELETED
from dataverse_sync.store.schema_lock import SCHEMA_CHANGES
from dataverse_sync.store.sync_state import LOG, STATE

NIGHT = datetime(2026, 11, 23, 2, tzinfo=UTC)
NOW = datetime(2026, 11, 23, 7, 40, tzinfo=UTC)
DAY = timedelta(days=1)
REFUSED = "accounts, page 3: the service answered 403"


@contextmanager
def writing(path: Path) -> Iterator[Connection]:
    """Write to a database with the program's own tables, in one transaction."""
    with open_target(path).open_writer() as connection, connection.begin():
        prepare_own_tables(connection)
        yield connection


def add_state(connection: Connection, name: str, **values: Any) -> None:
    defaults = {"state": "completed", "records_count": 0, "last_sync_time": to_text(NIGHT)}
    connection.execute(insert(STATE).values(entity_name=name, **{**defaults, **values}))


def add_log(
    connection: Connection,
    run_id: str,
    name: str,
    at: datetime = NIGHT,
    seconds: float | None = 41.0,
    counts: Sequence[int] = (0, 0, 0, 0, 0),
    **values: Any,
) -> None:
    kinds = ("fetched", "added", "updated", "unchanged", "deleted")
    row = {
        "run_id": run_id,
        "entity_name": name,
        "started_at": to_text(at),
        "finished_at": None if seconds is None else to_text(at + timedelta(seconds=seconds)),
        "status": "completed",
        "requests": 2,
        **{f"records_{kind}": count for kind, count in zip(kinds, counts, strict=True)},
        **values,
    }
    connection.execute(insert(LOG).values(row))


def add_failed(
    connection: Connection,
    name: str = "accounts",
    run_id: str = "r1",
    at: datetime = NIGHT,
    **values: Any,
) -> None:
    add_log(connection, run_id, name, at, status="failed", error=REFUSED, **values)


def add_unfinished(connection: Connection, name: str = "accounts", **values: Any) -> None:
    """Add an entity whose run is in progress or was killed."""
    add_state(connection, name, state="in_progress", **values)
    add_log(connection, "r1", name, seconds=None, status="in_progress")


def add_change(
    connection: Connection,
    name: str,
    column: str | None = "rating",
    change: str = "column_added",
    **values: Any,
) -> None:
    row = {
        "run_id": "r1",
        "entity_name": name,
        "column_name": column,
        "change": change,
        "severity": "info",
        "new_type": "TEXT",
        "detected_at": to_text(NIGHT),
        **values,
    }
    connection.execute(insert(SCHEMA_CHANGES).values(row))


def add_deleted(
    connection: Connection, name: str, count: int, reason: str = "deleted", at: datetime = NIGHT
) -> None:
    for number in range(count):
        row = {"entity_name": name, "record_id": f"{number}", "deleted_at": to_text(at)}
        connection.execute(insert(DELETED).values(**row, reason=reason, json_response="{}"))
