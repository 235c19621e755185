"""Say what the database knows: state, bookmark, rows, last success and last run, per entity.

Reads the file alone, also while a sync writes it; asks nobody.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError

from dataverse_sync.errors import ConfigError
from dataverse_sync.moments import parse_timestamp
from dataverse_sync.show.text import format_table
from dataverse_sync.store import run_lock
from dataverse_sync.store.database import check_file, open_reader, read_tables
from dataverse_sync.store.sync_state import LOG, STATE

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, slots=True)
class LastRun:
    """The newest row of ``_sync_log`` for an entity."""

    run_id: str
    started_at: str
    finished_at: str | None
    status: str
    records_fetched: int
    records_added: int
    records_updated: int
    records_unchanged: int
    records_deleted: int
    requests: int
    error: str | None


@dataclass(frozen=True, slots=True)
class EntityStatus:
    """What is known of one entity."""

    entity: str
    state: str
    rows: int
    bookmark: str | None
    last_success: str | None
    age_s: float | None  # since the last success; None where there was none
    error: str | None
    configured: bool
    last_run: LastRun | None


@dataclass(frozen=True, slots=True)
class Status:
    """What is known of a whole database."""

    database: str
    running: str | None  # who syncs it now
    entities: tuple[EntityStatus, ...]


def load_status(
    db_path: Path, now: datetime, configured: Collection[str] | None = None
) -> Status | None:
    """Read the state of every entity; None where there is no database yet.

    Args:
        db_path: The SQLite file.
        now: For the ages.
        configured: The entity sets of the configuration, if it is known.

    Raises:
        ConfigError: The file is no database, or not one of this program.
    """
    if not db_path.exists():
        return None
    check_file(db_path, to_write=False)
    try:
        with open_reader(db_path).connect() as connection:
            if STATE.name not in read_tables(connection):
                return Status(str(db_path), None, ())
            states = connection.execute(select(STATE).order_by(STATE.c.entity_name)).all()
            newest = select(func.max(LOG.c.id)).group_by(LOG.c.entity_name)
            runs = {
                row.entity_name: LastRun(
                    **{name: getattr(row, name) for name in LastRun.__dataclass_fields__}
                )
                for row in connection.execute(select(LOG).where(LOG.c.id.in_(newest)))
            }
    except DBAPIError as error:
        raise ConfigError(
            f"{db_path}: cannot be read ({error.orig})",
            "Is it a database of this program, and whole? Name it with --db.",
        ) from error
    entities = []
    for row in states:
        success = parse_timestamp(row.last_sync_time)
        entities.append(
            EntityStatus(
                entity=row.entity_name,
                state=row.state,
                rows=row.records_count,
                bookmark=row.last_timestamp,
                last_success=row.last_sync_time,
                age_s=None if success is None else (now - success).total_seconds(),
                error=row.error,
                configured=configured is None or row.entity_name in configured,
                last_run=runs.get(row.entity_name),
            )
        )
    running = run_lock.describe_holder(db_path) if run_lock.is_held(db_path) else None
    return Status(str(db_path), running, tuple(entities))


def parse_age(text: str) -> timedelta:
    """A length of time such as ``90m``, ``26h`` or ``2d``.

    Raises:
        ValueError: It is none.
    """
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)([smhd])", text)
    if match is None:
        raise ValueError(f"{text!r} is no length of time such as 90m, 26h or 2d")
    return timedelta(seconds=float(match[1]) * _UNITS_S[match[2]])


def find_too_old(status: Status, max_age: timedelta) -> Sequence[EntityStatus]:
    """Configured entities whose last success is older, or that never had one."""
    limit_s = max_age.total_seconds()
    return [
        entity
        for entity in status.entities
        if entity.configured and (entity.age_s is None or entity.age_s > limit_s)
    ]


def to_document(status: Status) -> dict[str, Any]:
    """The status as one JSON document."""
    return asdict(status)


def format_status(status: Status) -> list[str]:
    """The status for a person, line by line."""
    heads = ("entity", "rows", "age", "bookmark", "last run", "state")
    rows = [
        (
            entity.entity if entity.configured else f"{entity.entity} (not configured)",
            str(entity.rows),
            format_age(entity.age_s),
            entity.bookmark or "-",
            entity.last_run.started_at[:19] if entity.last_run else "-",
            entity.state,
        )
        for entity in status.entities
    ]
    lines = [f"{status.database}:"]
    if status.running:
        lines.append(f"A run is under way: {status.running}.")
    lines += format_table(heads, rows) if rows else ["Nothing was synced into it yet."]
    lines += [f"Failed: {entity.error}" for entity in status.entities if entity.error]
    ages = [entity.age_s for entity in status.entities if entity.configured]
    if ages:
        oldest = None if None in ages else max(age for age in ages if age is not None)
        done = sum(entity.state == "completed" for entity in status.entities if entity.configured)
        lines += ["", f"{done} of {len(ages)} entities completed, oldest: {format_age(oldest)}"]
    return lines


def format_age(age_s: float | None) -> str:
    """A length of time in the unit that reads best: ``45 s``, ``12 min``, ``26 h``, ``3 d``."""
    if age_s is None:
        return "never"
    for unit, seconds, limit_s in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172800)):
        if age_s < limit_s:
            return f"{age_s / seconds:.0f} {unit}"
    return f"{age_s / 86400:.0f} d"
