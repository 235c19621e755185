"""Write rows that are new or differ, and count exactly what was done."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import msgspec
from sqlalchemy import Connection, Table, func, select
from sqlalchemy.dialects import sqlite

from dataverse_sync.model import Counts
from dataverse_sync.moments import parse_timestamp
from dataverse_sync.store.rows import JSON_RESPONSE, VALID_FROM, Head, SqlRow, to_heads, to_rows
from dataverse_sync.store.sync_state import later
from dataverse_sync.store.tables import EntityTable, compile_insert, compile_upsert

ROWS_PER_CALL = 500  # more at once gains nothing and holds more memory
_insert = cache(compile_insert)
_upsert = cache(compile_upsert)
# Looks at what is stored, as text: SQLAlchemy takes a millisecond a table to compile the last.
# Rows of 128 KiB and more are left to the look by key: SQLite joins no more than 1 GB.
_BY_KEYS = """
    SELECT {key}, json_response FROM {table} WHERE {key} IN (SELECT value FROM json_each(?))
"""
_FROM_KEY_ON = """
    SELECT {key} AS key, json_response FROM {table}
    WHERE {row} >= (SELECT {row} FROM {table} WHERE {key} = ?)
    AND typeof({key}) = 'text' AND typeof(json_response) = 'text'
    AND length(CAST(json_response AS BLOB)) < 131072
    ORDER BY {row}
"""
_JOINED = f"""
    SELECT group_concat(key), CAST(group_concat(json_response) AS BLOB)
    FROM ({_FROM_KEY_ON} LIMIT ?)
"""  # noqa: S608  a constant


@cache
def _name(look: str, table: Table) -> str:
    """One of these for a table, its names quoted."""
    quote = sqlite.dialect().identifier_preparer.quote
    taken = {column.name.lower() for column in table.c}
    # SQLite's number of a row; a column of such a name hides it, and takes a scan.
    row = next((name for name in ("rowid", "_rowid_", "oid") if name not in taken), "rowid")
    key = next(iter(table.primary_key)).name
    return look.format(table=quote(table.name), key=quote(key), row=row)


def upsert(
    connection: Connection, table: EntityTable, rows: Sequence[SqlRow], *, fresh: bool = False
) -> Counts:
    """Write the rows that are new or differ; leave the others as they were.

    What differs is told by ``json_response``, not by a version: calculated columns
    change without one.

    Args:
        connection: In a transaction.
        table: Where to.
        rows: As ``to_rows`` made them, best not more than ``ROWS_PER_CALL``.
        fresh: Whether the table was empty when its read began, so that hardly any of
            them can be there: they are inserted first, and looked at only if one was.

    Returns:
        How many rows came, and how many of them were new, changed, and as stored.
    """
    if not rows:
        return Counts()
    latest = {row[0]: row for row in rows}  # a key that comes twice on a page: the last wins
    inserted = 0
    if fresh:
        inserted = connection.exec_driver_sql(_insert(table.table), list(latest.values())).rowcount
        if inserted == len(rows):
            return Counts(fetched=inserted, added=inserted)
    keys = json.dumps(list(latest))
    found = connection.exec_driver_sql(_name(_BY_KEYS, table.table), (keys,))
    stored: dict[str, str] = {row[0]: row[1] for row in found}
    changed = [row for key, row in latest.items() if stored.get(key) != row[JSON_RESPONSE]]
    if changed:
        connection.exec_driver_sql(_upsert(table.table), changed)
    new = len(latest) - len(stored)
    added, updated = inserted + new, len(changed) - new
    return Counts(
        fetched=len(rows), added=added, updated=updated, unchanged=len(rows) - added - updated
    )


def find_unchanged(
    connection: Connection,
    table: EntityTable,
    keys: Sequence[str],
    records: Sequence[msgspec.Raw],
) -> set[str]:
    """The keys under which this very record is stored.

    The records of a page that came like this before lie together, and are compared as one
    text.

    Args:
        connection: In a transaction.
        table: Where.
        keys: Those of the records; none comes twice.
        records: What to compare with ``json_response``.
    """
    unchanged: set[str] = set()
    joined = _name(_JOINED, table.table)
    for start in range(0, len(keys), ROWS_PER_CALL):
        part, came = keys[start : start + ROWS_PER_CALL], records[start : start + ROWS_PER_CALL]
        stored = connection.exec_driver_sql(joined, (part[0], len(part))).one()
        if stored == (",".join(part), b",".join(came)):
            unchanged.update(part)
        else:
            unchanged |= _find_unchanged(connection, table.table, part, came)
    return unchanged


def _find_unchanged(
    connection: Connection, table: Table, keys: Sequence[str], records: Sequence[msgspec.Raw]
) -> set[str]:
    """The same row by row: first those that lie together, then the others by their keys."""
    # What is no UTF-8 becomes a text that no row can have.
    texts = {
        key: str(record, "utf-8", "surrogateescape")
        for key, record in zip(keys, records, strict=True)
    }
    with connection.exec_driver_sql(_name(_FROM_KEY_ON, table), (keys[0],)) as result:
        stored: Any = result.cursor  # the driver's own: its rows are plain tuples
        near = stored.fetchmany(len(keys))
    unchanged = {key for key, text in near if (key, text) in texts.items()}
    if others := [key for key in keys if key not in unchanged]:
        found = connection.exec_driver_sql(_name(_BY_KEYS, table), (json.dumps(others),))
        unchanged.update(key for key, text in found if (key, text) in texts.items())
    return unchanged


def rewrite(connection: Connection, table: EntityTable, rows: Sequence[SqlRow]) -> None:
    """Write rows whatever is stored under their keys."""
    if rows:
        connection.exec_driver_sql(_upsert(table.table), list(rows))


def count_rows(connection: Connection, table: EntityTable) -> int:
    return connection.execute(select(func.count()).select_from(table.table)).scalar_one()


def is_empty(connection: Connection, table: EntityTable) -> bool:
    key: Any = next(iter(table.table.primary_key))
    return connection.execute(select(key).limit(1)).first() is None


def find_newest(connection: Connection, table: EntityTable) -> str | None:
    """The largest ``modifiedon`` in a table, by its index; None where there is none."""
    if "modifiedon" not in table.table.c:
        return None
    newest: str | None = connection.execute(select(func.max(table.table.c.modifiedon))).scalar()
    return newest


Expected = Literal["new", "changed", "same"]  # what most records of a page will prove to be


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a page's records."""

    counts: Counts
    keys: list[str]  # written, or found unchanged
    newest: str | None  # the largest modifiedon


def write_records(
    connection: Connection,
    table: EntityTable,
    records: Sequence[msgspec.Raw],
    sync_time: str,
    *,
    expected: Expected = "changed",
    wanted: Collection[str] | None = None,
) -> Written:
    """Write records, only the wanted ones if that is said, and count them."""
    heads: list[Head] = []
    if expected == "same":
        heads, records = _leave_unchanged(connection, table, records)
    rows = to_rows(table, records, sync_time)
    if wanted is not None:
        rows = [row for row in rows if row[0].lower() in wanted]
    counts = Counts(fetched=len(heads), unchanged=len(heads))
    for start in range(0, len(rows), ROWS_PER_CALL):
        part = rows[start : start + ROWS_PER_CALL]
        counts += upsert(connection, table, part, fresh=expected == "new")
    keys = [head[0] for head in heads] + [row[0] for row in rows]
    moments = [head[1] for head in heads] + [row[VALID_FROM] for row in rows]
    return Written(counts, keys, newest_of(moments))


def _leave_unchanged(
    connection: Connection, table: EntityTable, records: Sequence[msgspec.Raw]
) -> tuple[list[Head], Sequence[msgspec.Raw]]:
    heads = to_heads(table, records)
    keys = [key for key, _ in heads]
    if len(set(keys)) < len(keys):
        return [], records
    same = find_unchanged(connection, table, keys, records)
    if len(same) == len(heads):
        return heads, ()
    pairs = zip(heads, records, strict=True)
    others = tuple(record for head, record in pairs if head[0] not in same)
    return [head for head in heads if head[0] in same], others


def newest_of(values: Iterable[object]) -> str | None:
    """The latest of many moments of the service, as it was written."""
    texts = {value for value in values if isinstance(value, str)}
    if not texts:
        return None
    last = max(texts)
    alike = len({len(text) for text in texts}) == 1 and last.endswith("Z")
    if alike and parse_timestamp(last) is not None:
        return last
    newest: str | None = None
    for text in sorted(texts):
        if parse_timestamp(text) is not None:
            newest = later(newest, text)
    return newest
