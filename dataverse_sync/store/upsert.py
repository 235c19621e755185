"""Write rows: records of a page, counted exactly, or rows whatever is stored under their keys."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import msgspec
from sqlalchemy import Connection, func, select

from dataverse_sync.model import Counts
from dataverse_sync.moments import parse_timestamp
from dataverse_sync.store.database import dialect_of
from dataverse_sync.store.rows import VALID_FROM, Head, SqlRow, to_heads, to_rows
from dataverse_sync.store.sync_state import newest_of
from dataverse_sync.store.tables import EntityTable

CLOCKS_DIFFER = timedelta(minutes=5)  # at most, this machine's and the service's
ROWS_PER_CALL = 500  # more at once gains nothing and holds more memory

Expected = Literal["new", "changed", "same"]  # what most records of a page will prove to be


@dataclass(frozen=True, slots=True)
class Written:
    """What became of the records of a page."""

    counts: Counts
    keys: list[str]  # of the rows that were written or found unchanged
    newest: str | None  # the latest ``modifiedon`` among them


def write_records(
    connection: Connection,
    table: EntityTable,
    records: Sequence[msgspec.Raw],
    sync_time: str,
    *,
    expected: Expected = "changed",
    wanted: Collection[str] | None = None,
    annotates: bool = False,
) -> Written:
    """Write the records that are new or differ; leave the other rows as they are.

    A difference is told by ``json_response``, not by a version: calculated columns change
    without one. What differs in annotations alone is unchanged: its row keeps its text or, with
    ``annotates``, takes the new one and keeps all else, its ``sync_time`` too. Of a key that comes
    twice on a page the last record wins. What is ``expected`` is tried first, which changes
    nothing but the time; "new" only if the table was empty when its read began. Only the keys
    ``wanted``, in lower case, are written; all if None. If a record cannot be a row, that is a
    PageError, and nothing of the page is written.
    """
    heads: list[Head] = []
    if expected == "same":
        heads, records = _leave_unchanged(connection, table, records)
    rows = to_rows(table, records, sync_time)
    if wanted is not None:
        rows = [row for row in rows if row[0].lower() in wanted]
    counts = Counts(fetched=len(heads), unchanged=len(heads))
    upsert_rows, fresh = dialect_of(connection).upsert_rows, expected == "new"
    for part in _parts(len(rows)):
        counts += upsert_rows(connection, table, rows[part], fresh=fresh, annotates=annotates)
    keys = [key for key, _ in heads] + [row[0] for row in rows]
    newest = newest_of([moment for _, moment in heads] + [row[VALID_FROM] for row in rows])
    return Written(counts, keys, newest)


def _leave_unchanged(
    connection: Connection, table: EntityTable, records: Sequence[msgspec.Raw]
) -> tuple[list[Head], Sequence[msgspec.Raw]]:
    """The heads of records that are stored as they are, and the other records."""
    heads = to_heads(table, records)
    keys = [key for key, _ in heads]
    if len(set(keys)) < len(keys):  # if a key comes twice the order counts: none is left out
        return [], records
    same: set[str] = set()
    for part in _parts(len(keys)):
        same |= dialect_of(connection).find_unchanged(connection, table, keys[part], records[part])
    if len(same) == len(keys):
        return heads, []
    others = [record for key, record in zip(keys, records, strict=True) if key not in same]
    return [head for head in heads if head[0] in same], others


def _parts(length: int) -> Iterator[slice]:
    return (slice(start, start + ROWS_PER_CALL) for start in range(0, length, ROWS_PER_CALL))


def rewrite(connection: Connection, table: EntityTable, rows: Sequence[SqlRow]) -> None:
    """Write rows, whatever is stored under their keys."""
    if rows:
        dialect_of(connection).rewrite_rows(connection, table, rows)


def count_rows(connection: Connection, table: EntityTable) -> int:
    return connection.execute(select(func.count()).select_from(table.table)).scalar_one()


def is_empty(connection: Connection, table: EntityTable) -> bool:
    return connection.execute(select(table.key).limit(1)).first() is None


def find_newest(connection: Connection, table: EntityTable) -> str | None:
    """The largest ``modifiedon`` in a table, by its index; None if it has none."""
    if "modifiedon" not in table.table.c:
        return None
    newest: str | None = connection.execute(select(func.max(table.table.c.modifiedon))).scalar()
    return newest


def has_future(connection: Connection, table: EntityTable, now: datetime) -> bool:
    """Whether a row was modified at a moment that this machine's clock has not reached."""
    if "modifiedon" not in table.table.c:
        return False
    # As text: SQLAlchemy takes a millisecond to compile one.
    quote = connection.dialect.identifier_preparer.quote
    query = f"SELECT max({quote('modifiedon')}) FROM {quote(table.name)}"  # noqa: S608  quoted
    newest = parse_timestamp(connection.exec_driver_sql(query).scalar())
    return newest is not None and newest > now + CLOCKS_DIFFER
