"""Where each entity stands: bookmarks and checkpoints, and the log of the runs.

A bookmark is where the next run starts, a checkpoint is where this read can be
taken up; both change in the transaction of the page they speak of. State rows
are changed by UPDATE of the columns meant, never replaced.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from dataverse_sync.model import Counts, Range, State
from dataverse_sync.moments import parse_timestamp, to_text
from dataverse_sync.store.database import OWN_TABLES, dialect_of

# The service commits out of order within two minutes; a moment is shown to the second only.
LATE_COMMIT = timedelta(minutes=2, seconds=1)
DIED = "the previous run was killed or the machine went down"
COUNTED = tuple(field.name for field in fields(Counts))

STATE = sa.Table(
    "_sync_state",
    OWN_TABLES,
    sa.Column("entity_name", sa.Text, primary_key=True),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("last_timestamp", sa.Text),  # the bookmark
    sa.Column("last_sync_time", sa.Text),  # when the entity last completed
    sa.Column("records_count", sa.Integer, nullable=False),
    sa.Column("error", sa.Text),
    sa.Column("checkpoint", sa.Text),  # JSON: where an unfinished read goes on
    sa.Column("delta_link", sa.Text),  # opaque: where the next delta read starts
    sa.Column("compared_at", sa.Text),  # when a complete read was last held against the rows
    sa.Column("asked_how", sa.Text),  # JSON: what the service refuses, and what it is asked instead
    sa.Column("rights", sa.Text),  # JSON: what the app might read when the rows were read
)
LOG = sa.Table(
    "_sync_log",
    OWN_TABLES,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("entity_name", sa.Text, nullable=False),
    sa.Column("started_at", sa.Text, nullable=False),
    sa.Column("finished_at", sa.Text),
    sa.Column("status", sa.Text, nullable=False),
    *(sa.Column(f"records_{name}", sa.Integer, nullable=False, default=0) for name in COUNTED),
    sa.Column("requests", sa.Integer, nullable=False, default=0),
    sa.Column("error", sa.Text),
)

# Made once: to build a statement takes five times as long as to execute it, and these are
# executed for each page. What they set is named by the parameters.
_CHANGE_STATE = sa.update(STATE).where(STATE.c.entity_name == sa.bindparam("changed"))
_CHANGE_LOG = sa.update(LOG).where(LOG.c.id == sa.bindparam("changed"))


# Bookmarks


def newest_of(values: Iterable[object]) -> str | None:
    """The latest of some moments of the service, as it was written; None if there is none."""
    texts = {value for value in values if isinstance(value, str)}
    last = max(texts, default="")
    if last.endswith("Z") and len({len(text) for text in texts}) == 1 and parse_timestamp(last):
        return last  # all written alike, so the last as text is the latest
    moments = {text: moment for text in sorted(texts) if (moment := parse_timestamp(text))}
    return max(moments, key=moments.__getitem__, default=None)


def next_bookmark(seen_max: str | None, first_request_at: datetime) -> str | None:
    """Where the next read starts: the newest ``modifiedon`` seen, held back before the read began.

    Rows change while they are paged, and the service commits out of order; what is read twice
    because of the overlap is found unchanged. The read began when its first page was asked
    for, by the server's clock.
    """
    newest = parse_timestamp(seen_max)
    limit = first_request_at - LATE_COMMIT
    if newest is None or newest <= limit:
        return seen_max if newest else None
    return limit.strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An unfinished read: how it was begun, and the link that goes on."""

    next_link: str = ""
    page: int = 0  # the number of the page behind the link
    since: str | None = None  # the bookmark it started from; None: a full read
    first_request_at: str | None = None
    seen_max: str | None = None
    fresh: bool = False  # the table was empty when the read began
    full_asked: bool = False  # begun by --full
    ranges: tuple[Range, ...] = ()  # instead of the link, if they are read at once

    @property
    def links(self) -> tuple[str, ...]:
        """Every link that the read goes on from."""
        found = (self.next_link, *(part.next_link for part in self.ranges))
        return tuple(link for link in found if link)


def parse_checkpoint(text: str | None) -> Checkpoint | None:
    """A checkpoint out of its column; None where there is none that this version can use."""
    if not text:
        return None
    try:
        values = json.loads(text)
        ranges = tuple(Range(**part) for part in values.pop("segments", ()))
        checkpoint = Checkpoint(**values, ranges=ranges)
        return checkpoint if checkpoint.next_link or ranges else None
    except (ValueError, TypeError, AttributeError):
        return None


# State rows


@dataclass(frozen=True, slots=True)
class EntityState:
    """One row of ``_sync_state``."""

    state: State = "pending"
    bookmark: str | None = None
    checkpoint: Checkpoint | None = None
    delta_link: str | None = None
    records_count: int = 0
    compared_at: datetime | None = None
    asked_how: str | None = None
    has_completed: bool = False  # in an earlier run
    rights: str | None = None


def ensure_rows(connection: sa.Connection, names: Iterable[str]) -> None:
    """A ``pending`` row for each entity that has none."""
    rows = [{"entity_name": name, "state": "pending", "records_count": 0} for name in names]
    connection.execute(dialect_of(connection).insert_or_ignore(STATE), rows)


def load_states(connection: sa.Connection, names: Collection[str]) -> dict[str, EntityState]:
    """The state of each of these entities, also of those that have no row yet."""
    found = {row["entity_name"]: _parse_state(row) for row in load_rows(connection)}
    return {name: found.get(name, EntityState()) for name in names}


def load_rows(connection: sa.Connection) -> Sequence[sa.RowMapping]:
    """The rows of ``_sync_state`` by name; an older database lacks some of the columns."""
    query = sa.select(sa.text("*")).select_from(STATE).order_by(STATE.c.entity_name)
    return connection.execute(query).mappings().all()


def _parse_state(row: sa.RowMapping) -> EntityState:
    return EntityState(
        row["state"],
        row["last_timestamp"],
        parse_checkpoint(row["checkpoint"]),
        row["delta_link"],
        row["records_count"],
        parse_timestamp(row.get("compared_at")),
        row.get("asked_how"),
        row["last_sync_time"] is not None,
        row.get("rights"),
    )


def set_state(connection: sa.Connection, name: str, **columns: Any) -> None:
    """Change the columns named, and no other."""
    connection.execute(_CHANGE_STATE, {"changed": name, **columns})


def forget_reads(connection: sa.Connection, names: Collection[str] | None = None) -> None:
    """Forget bookmarks, checkpoints and tokens: these entities, or all, are read in full."""
    columns = ("last_timestamp", "checkpoint", "delta_link", "compared_at", "asked_how")
    statement = sa.update(STATE).values(dict.fromkeys(columns))
    if names is not None:
        statement = statement.where(STATE.c.entity_name.in_(names))
    connection.execute(statement)


def forget_rights(connection: sa.Connection) -> None:
    """Forget what the app might read: another environment has other rights."""
    connection.execute(sa.update(STATE).values(rights=None))


def save_checkpoint(connection: sa.Connection, name: str, checkpoint: Checkpoint) -> None:
    document = asdict(checkpoint)
    document["segments"] = document.pop("ranges")  # its name in the databases of 0.1.0
    set_state(connection, name, checkpoint=json.dumps(document))


# The run log


def start_entities(
    connection: sa.Connection, run_id: str, names: Sequence[str], started_at: datetime
) -> dict[str, int]:
    """Set entities to ``in_progress``; returns the id of each one's row in ``_sync_log``."""
    if not names:
        return {}
    begun = sa.update(STATE).where(STATE.c.entity_name.in_(names)).values(state="in_progress")
    connection.execute(begun)
    last = connection.execute(sa.select(sa.func.max(LOG.c.id))).scalar() or 0
    row = {"run_id": run_id, "started_at": to_text(started_at), "status": "in_progress"}
    connection.execute(sa.insert(LOG), [{**row, "entity_name": name} for name in names])
    made = sa.select(LOG.c.entity_name, LOG.c.id).where(LOG.c.id > last, LOG.c.run_id == run_id)
    return {row.entity_name: row.id for row in connection.execute(made)}


def update_log(
    connection: sa.Connection, log_id: int, counts: Counts, requests: int, **columns: Any
) -> None:
    counted = {f"records_{name}": getattr(counts, name) for name in COUNTED}
    values = {"changed": log_id, **counted, "requests": requests, **columns}
    connection.execute(_CHANGE_LOG, values)


def load_counts(connection: sa.Connection, log_ids: Collection[int]) -> dict[int, Counts]:
    """What these rows of ``_sync_log`` count: if a run is aborted, what it has committed."""
    columns = [LOG.c[f"records_{name}"] for name in COUNTED]
    rows = connection.execute(sa.select(LOG.c.id, *columns).where(LOG.c.id.in_(log_ids)))
    return {log_id: Counts(*counted) for log_id, *counted in rows}


def close_dead_runs(connection: sa.Connection, now: datetime) -> int:
    """Mark what a killed run left ``in_progress``; only with the run lock held."""
    dead = sa.update(LOG).where(LOG.c.status == "in_progress")
    values = {"status": "failed", "finished_at": to_text(now), "error": DIED}
    return connection.execute(dead.values(values)).rowcount
