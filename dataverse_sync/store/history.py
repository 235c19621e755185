"""Read the run's own tables for people: the state of each entity, what runs did, what was removed.

The one reader behind ``status``, ``report`` and ``check``. A killed run leaves its entities
``in_progress``: if no run holds the database, they are shown as failed in all three. The tables
keep what they say, which tells the next sync where to resume.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from sqlalchemy import ColumnElement, Connection, func, select

from dataverse_sync.errors import ConfigError
from dataverse_sync.model import Counts, Limit, State
from dataverse_sync.moments import parse_timestamp
from dataverse_sync.store.database import Target, dialect_of, open_target, reading
from dataverse_sync.store.deletions import DELETED
from dataverse_sync.store.limits import LIMITS, load_limits, parse_rights
from dataverse_sync.store.proof import VERIFY, load_proven
from dataverse_sync.store.schema_lock import SCHEMA_CHANGES
from dataverse_sync.store.sync_state import (
    COUNTED,
    DIED,
    LOG,
    STATE,
    EntityState,
    load_rows,
    load_states,
)

RunStatus = Literal["completed", "failed", "in_progress"]


@dataclass(frozen=True, slots=True)
class LogEntry:
    """What one run did for one entity: a row of ``_sync_log``."""

    run_id: str
    entity: str
    started_at: datetime
    finished_at: datetime | None
    status: RunStatus
    counts: Counts
    requests: int
    error: str | None

    @property
    def duration_s(self) -> float | None:
        return _seconds_between(self.started_at, self.finished_at)


@dataclass(frozen=True, slots=True)
class Run:
    """The entries of one run; there is at least one."""

    run_id: str
    entries: tuple[LogEntry, ...]

    @property
    def started_at(self) -> datetime:
        return min(entry.started_at for entry in self.entries)

    @property
    def finished_at(self) -> datetime | None:
        """When the last entity ended; None while one is still in progress."""
        ends = [entry.finished_at for entry in self.entries if entry.finished_at]
        return max(ends) if len(ends) == len(self.entries) else None

    @property
    def duration_s(self) -> float | None:
        return _seconds_between(self.started_at, self.finished_at)

    @property
    def status(self) -> RunStatus:
        statuses = {entry.status for entry in self.entries}
        if "in_progress" in statuses:
            return "in_progress"
        return "failed" if "failed" in statuses else "completed"

    @property
    def failed(self) -> tuple[LogEntry, ...]:
        return tuple(entry for entry in self.entries if entry.status == "failed")

    @property
    def completed(self) -> int:
        return sum(entry.status == "completed" for entry in self.entries)

    @property
    def totals(self) -> Counts:
        return sum((entry.counts for entry in self.entries), Counts())

    @property
    def requests(self) -> int:
        return sum(entry.requests for entry in self.entries)


@dataclass(frozen=True, slots=True)
class EntityHistory:
    """One entity as the database knows it: its row of ``_sync_state`` and its newest log entry."""

    name: str
    state: State  # as shown: failed if a killed run left it in progress
    error: str | None
    last_success_at: datetime | None
    saved: EntityState  # as stored: what the next sync plans by
    last: LogEntry | None
    proven_at: datetime | None = None  # when a verify last found the table to be the same
    proven_how: str | None = None  # what it had compared
    limits: tuple[Limit, ...] = ()  # what the app may not see of it

    @property
    def rows(self) -> int:
        return self.saved.records_count

    @property
    def bookmark(self) -> str | None:
        return self.saved.bookmark

    @property
    def is_sight_known(self) -> bool:
        """Whether it is known what the app may read of it."""
        rights = parse_rights(self.saved.rights)
        return rights is not None and rights.is_known

    @property
    def is_killed(self) -> bool:
        """Whether a killed run left the entity in progress; the next sync resumes it."""
        return self.state == "failed" and self.saved.state == "in_progress"


@dataclass(frozen=True, slots=True)
class Change:
    """A difference between the locked schema and the live one: a row of ``_schema_changes``."""

    entity: str
    column: str | None
    change: str
    severity: str
    old_type: str | None
    new_type: str | None
    detected_at: datetime
    standing: bool


@dataclass(frozen=True, slots=True)
class Removals:
    """The rows of one entity that are kept in ``_sync_deleted``."""

    entity: str
    by_reason: Mapping[str, int]
    last_at: datetime

    @property
    def total(self) -> int:
        return sum(self.by_reason.values())


@dataclass(frozen=True, slots=True)
class History:
    """What the run's own tables say, and who holds the database."""

    holder: str | None = None  # the run that is under way
    entities: tuple[EntityHistory, ...] = ()  # by name
    runs: tuple[Run, ...] = ()  # oldest first
    changes: tuple[Change, ...] = ()  # newest first
    removals: tuple[Removals, ...] = ()


def load_history(db_path: Path, runs: int = 0) -> History:
    """Read the run's own tables, in one transaction; before the first sync they are empty.

    The newest ``runs`` are read with all schema changes and removals. With 0 only the entities
    are read, which takes milliseconds whatever the database holds.
    A file that is not a database, or not one of this program, is a ConfigError.
    """
    target = open_target(db_path)
    was_held = target.is_held()
    try:
        if target.exists():
            target.check(to_write=False)
            with reading(target) as connection:
                connection.exec_driver_sql("BEGIN")
                if STATE.name in dialect_of(connection).read_tables(connection):
                    # Asked again: a run may have begun before the transaction, but none that
                    # begins after it is in what the transaction reads.
                    return _load(connection, runs, _find_holder(target, was_held))
    except (ValueError, TypeError) as error:  # a value is not what the program writes
        raise ConfigError(
            f"{db_path}: cannot be read ({error})",
            "Is it a database of this program, and whole? Name it with --db.",
        ) from error
    return History(_find_holder(target, was_held))


def _find_holder(target: Target, was_held: bool) -> str | None:
    return target.describe_holder() if was_held or target.is_held() else None


def _load(connection: Connection, runs: int, holder: str | None) -> History:
    newest = select(func.max(LOG.c.id)).group_by(LOG.c.entity_name)
    entries = _load_entries(connection, LOG.c.id.in_(newest), holder)
    entities = _load_entities(connection, {entry.entity: entry for entry in entries}, holder)
    if not runs:
        return History(holder, entities)
    last = func.max(LOG.c.id)
    latest = select(LOG.c.run_id).group_by(LOG.c.run_id).order_by(last.desc()).limit(runs)
    by_run: dict[str, list[LogEntry]] = {}
    for entry in _load_entries(connection, LOG.c.run_id.in_(latest), holder):
        by_run.setdefault(entry.run_id, []).append(entry)
    return History(
        holder,
        entities,
        tuple(Run(run_id, tuple(of_run)) for run_id, of_run in by_run.items()),
        _load_changes(connection),
        _load_removals(connection),
    )


def _load_entities(
    connection: Connection, last: Mapping[str, LogEntry], holder: str | None
) -> tuple[EntityHistory, ...]:
    rows = load_rows(connection)
    made = dialect_of(connection).read_tables(connection)
    proven = load_proven(connection) if VERIFY.name in made else {}
    limits = load_limits(connection) if LIMITS.name in made else []
    saved = load_states(connection, [row["entity_name"] for row in rows])
    entities = []
    for row in rows:
        name, state, error = row["entity_name"], row["state"], row["error"]
        _check_texts(name, state, error, row["last_timestamp"])
        _check_counts(row["records_count"])
        if state == "in_progress" and not holder:
            state, error = "failed", f"{name}: {DIED}"
        success_at = row["last_sync_time"] and _read_moment(row["last_sync_time"])
        proven_at, how = proven.get(name) or (None, None)
        mine = tuple(limit for limit in limits if limit.entity == name)
        known = (success_at, saved[name], last.get(name), proven_at, how, mine)
        entities.append(EntityHistory(name, state, error, *known))
    return tuple(entities)


def _load_entries(
    connection: Connection, wanted: ColumnElement[bool], holder: str | None
) -> Iterator[LogEntry]:
    for row in connection.execute(select(LOG).where(wanted).order_by(LOG.c.id)):
        is_killed = row.status == "in_progress" and not holder
        counted = {kind: getattr(row, f"records_{kind}") for kind in COUNTED}
        _check_texts(row.run_id, row.entity_name, row.status, row.error)
        _check_counts(*counted.values(), row.requests)
        yield LogEntry(
            run_id=row.run_id,
            entity=row.entity_name,
            started_at=_read_moment(row.started_at),
            finished_at=row.finished_at and _read_moment(row.finished_at),
            status="failed" if is_killed else row.status,
            counts=Counts(**counted),
            requests=row.requests,
            error=DIED if is_killed else row.error,
        )


def _load_changes(connection: Connection) -> tuple[Change, ...]:
    of = SCHEMA_CHANGES.c
    texts = (of.entity_name, of.column_name, of.change, of.severity, of.old_type, of.new_type)
    query = select(*texts, of.detected_at, of.standing).order_by(of.id.desc())
    rows = connection.execute(query).all()
    for row in rows:
        _check_texts(*row[:6])
    return tuple(
        Change(*row[:6], detected_at=_read_moment(row[6]), standing=bool(row[7])) for row in rows
    )


def _load_removals(connection: Connection) -> tuple[Removals, ...]:
    name, reason, at = DELETED.c.entity_name, DELETED.c.reason, DELETED.c.deleted_at
    query = select(name, reason, func.count(), func.max(at)).group_by(name, reason).order_by(name)
    found: dict[str, Removals] = {}
    for entity, why, count, newest in connection.execute(query):
        _check_texts(entity, why)
        known = found.get(entity) or Removals(entity, {}, _read_moment(newest))
        last_at = max(known.last_at, _read_moment(newest))
        found[entity] = Removals(entity, {**known.by_reason, why: count}, last_at)
    return tuple(found.values())


def _check_texts(*values: object) -> None:
    """Raise a ValueError if one of these is neither text nor null, as in a damaged file."""
    for value in values:
        if not isinstance(value, str | None):
            raise ValueError(f"{str(value)[:50]!r} is not text")


def _check_counts(*values: object) -> None:
    """Raise a ValueError if one of these is not a whole number."""
    for value in values:
        if not isinstance(value, int):
            raise ValueError(f"{str(value)[:50]!r} is not a count")


def _read_moment(text: str) -> datetime:
    moment = parse_timestamp(text)
    if moment is None:
        raise ValueError(f"{str(text)[:50]!r} is not a moment")
    return moment


def _seconds_between(start: datetime, end: datetime | None) -> float | None:
    return None if end is None else max(0.0, (end - start).total_seconds())
