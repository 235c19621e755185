"""Records gone from Dataverse: found by comparing keys and versions, kept in ``_sync_deleted``.

A census is what one complete read of keys and versions, or one delta read, has
said; it lives in a temporary table, as do the keys that a full read returned, so
their size is bounded by the disk and a crash forgets them. Nothing is ever
removed on the word of an incomplete read.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import msgspec
from sqlalchemy import (
    Column,
    Connection,
    Integer,
    PrimaryKeyConstraint,
    Select,
    Table,
    Text,
    and_,
    bindparam,
    cast,
    column,
    delete,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
)
from sqlalchemy.dialects import sqlite

from dataverse_sync.errors import GuardError, PageError
from dataverse_sync.model import Page, Reason
from dataverse_sync.store.database import OWN_TABLES, TEMPORARY_TABLES
from dataverse_sync.store.tables import EntityTable
from dataverse_sync.store.upsert import count_rows

_AGAIN = "Is a proxy in between? Run again; it goes on from the last committed page."
GUARDED_ROWS = 100  # tables of more rows than this are never emptied by half unasked

DELETED = Table(
    "_sync_deleted",
    OWN_TABLES,
    Column("id", Integer, primary_key=True),
    Column("entity_name", Text, nullable=False),
    Column("record_id", Text, nullable=False),
    Column("deleted_at", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("json_response", Text),
)
# What a full read has returned so far: one row a page.
_SEEN = Table(
    "_seen",
    TEMPORARY_TABLES,
    Column("id", Integer, primary_key=True),
    Column("entity_name", Text, nullable=False),
    Column("keys", Text, nullable=False),  # a JSON array
    prefixes=["TEMPORARY"],
)
_CENSUS = Table(
    "_census",
    TEMPORARY_TABLES,
    Column("entity_name", Text, nullable=False),
    Column("record_id", Text, nullable=False),
    Column("version", Text),
    Column("deleted", Integer, nullable=False),
    Column("twice", Integer, nullable=False, default=0),  # both changed and deleted in one delta
    PrimaryKeyConstraint("entity_name", "record_id"),
    prefixes=["TEMPORARY"],
    sqlite_with_rowid=False,
)
_DOOMED = Table(
    "_doomed",
    TEMPORARY_TABLES,
    Column("entity_name", Text, nullable=False),
    Column("record_id", Text, nullable=False),
    Column("reason", Text, nullable=False),
    PrimaryKeyConstraint("entity_name", "record_id"),
    prefixes=["TEMPORARY"],
    sqlite_with_rowid=False,
)


_decode_any = msgspec.json.Decoder(dict[str, Any]).decode


# The census


def start_comparison(connection: Connection, name: str) -> None:
    connection.execute(delete(_CENSUS).where(_CENSUS.c.entity_name == name))
    connection.execute(delete(_DOOMED).where(_DOOMED.c.entity_name == name))


def add_to_comparison(connection: Connection, table: EntityTable, page: Page) -> list[str]:
    """Note the keys and versions of a page, and its deleted entries, in the order they came.

    Raises:
        PageError: An entry has no key.
    """
    rows = []
    for record in page.records:
        try:
            entry = _decode_any(record)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise PageError(f"{page.request}: an entry cannot be read ({error})", _AGAIN) from error
        deleted = entry.get("reason") == "deleted" and table.entity.key not in entry
        key = entry.get("id") if deleted else entry.get(table.entity.key)
        if not isinstance(key, str) or not key:
            raise PageError(f"{page.request}: an entry has no {table.entity.key}", _AGAIN)
        version = entry.get(table.entity.version_column or "")
        rows.append((table.name, key, None if version is None else str(version), int(deleted), 0))
    if not rows:
        return []
    statement = sqlite.insert(_CENSUS).values(dict.fromkeys(_CENSUS.c.keys()))
    statement = statement.on_conflict_do_update(
        index_elements=["entity_name", "record_id"],
        set_={
            "version": statement.excluded.version,
            "deleted": statement.excluded.deleted,
            "twice": func.max(_CENSUS.c.twice, _CENSUS.c.deleted != statement.excluded.deleted),
        },
    )
    sql = str(statement.compile(dialect=sqlite.dialect(paramstyle="qmark")))
    connection.exec_driver_sql(sql, rows)
    return [row[1] for row in rows]


def find_differing(
    connection: Connection, table: EntityTable, settled: str | None = None
) -> Sequence[str]:
    """Ids in the census whose row is missing or of another version: they must be fetched.

    Args:
        connection: In a transaction.
        table: Whose census it is.
        settled: Where ``modifiedon`` alone tells versions apart, rows that are newer than
            this may have changed again within their second, and count as of another version.
    """
    key = table.table.c[table.entity.key]
    version = table.entity.version_column
    same = and_(
        key == _CENSUS.c.record_id,
        literal(True)
        if version is None
        else cast(table.table.c[version], Text).is_not_distinct_from(_CENSUS.c.version),
    )
    if settled is not None and version == "modifiedon":
        same = and_(same, table.table.c[version] <= settled)
    query = select(_CENSUS.c.record_id).where(
        _CENSUS.c.entity_name == table.name,
        or_(
            and_(_CENSUS.c.deleted == 0, ~exists().where(same)),
            _CENSUS.c.twice == 1,
        ),
    )
    return connection.execute(query).scalars().all()


def count_changed(connection: Connection, name: str) -> int:
    """How many records the census names that are there."""
    query = select(func.count()).where(_CENSUS.c.entity_name == name, _CENSUS.c.deleted == 0)
    return connection.execute(query).scalar_one()


def missing_from_comparison(table: EntityTable) -> Select[Any]:
    """Keys of rows that a complete census does not name."""
    key = table.table.c[table.entity.key]
    named = exists().where(_CENSUS.c.entity_name == table.name, _CENSUS.c.record_id == key)
    return select(key).where(~named)


def deleted_in_comparison(table: EntityTable) -> Select[Any]:
    """Keys of rows that a delta read says are deleted, and only that."""
    key = table.table.c[table.entity.key]
    return select(key).where(
        exists().where(
            _CENSUS.c.entity_name == table.name,
            _CENSUS.c.record_id == key,
            _CENSUS.c.deleted == 1,
            _CENSUS.c.twice == 0,
        )
    )


# What a full read returned


def note_seen(connection: Connection, name: str, keys: Iterable[str]) -> None:
    connection.execute(insert(_SEEN).values(entity_name=name, keys=json.dumps(list(keys))))


def sum_keys(keys: Iterable[str]) -> int:
    """The same for the same keys in any order, and within this process alone."""
    return sum(map(hash, keys))


def sum_stored_keys(connection: Connection, table: EntityTable) -> int:
    """``sum_keys`` of a table; its index is read, and nothing held."""
    with connection.execute(select(table.table.c[table.entity.key])) as result:
        # By the driver's own cursor: a row of SQLAlchemy for each key would double the time.
        stored: Any = result.cursor
        return sum_keys(key for (key,) in stored)


class ReturnedKeys:
    """The keys that a full read has returned so far, to find those that it did not."""

    def __init__(self, connection: Connection, table: EntityTable) -> None:
        self._connection = connection
        self._table = table
        self._sum = 0
        self._is_complete = False

    def add(self, keys: Sequence[str]) -> None:
        if not self._sum and len(set(keys)) == count_rows(self._connection, self._table):
            self._is_complete = True
            return
        self._sum += sum_keys(keys)
        note_seen(self._connection, self._table.name, keys)

    def find_missing(self) -> Select[Any] | None:
        if self._is_complete or self._sum == sum_stored_keys(self._connection, self._table):
            return None
        return missing_from_read(self._table)


def missing_from_read(table: EntityTable) -> Select[Any]:
    """Keys of rows that a full read, now complete, did not return."""
    key = table.table.c[table.entity.key]
    returned: Any = (
        select(column("value"))
        .select_from(_SEEN, func.json_each(_SEEN.c["keys"]))
        .where(_SEEN.c.entity_name == table.name)
    )
    return select(key).where(key.not_in(returned))


# Removing


def mark_for_removal(
    connection: Connection, table: EntityTable, keys: Select[Any], reason: Reason
) -> None:
    """Mark rows for removal; nothing is removed yet."""
    chosen = keys.add_columns(literal(table.name), literal(reason))
    statement = sqlite.insert(_DOOMED).from_select(["record_id", "entity_name", "reason"], chosen)
    connection.execute(statement.prefix_with("OR IGNORE"))


def mark_ids_for_removal(
    connection: Connection, table: EntityTable, ids: Iterable[str], reason: Reason
) -> None:
    """Mark rows for removal by their ids."""
    rows = [{"entity_name": table.name, "record_id": key, "reason": reason} for key in ids]
    if rows:
        connection.execute(sqlite.insert(_DOOMED).prefix_with("OR IGNORE"), rows)


def list_marked(connection: Connection, table: EntityTable) -> Sequence[str]:
    query = select(_DOOMED.c.record_id).where(_DOOMED.c.entity_name == table.name)
    return connection.execute(query).scalars().all()


def unmark(connection: Connection, table: EntityTable, ids: Collection[str]) -> None:
    """Take these off the list: they are there after all."""
    one = and_(_DOOMED.c.entity_name == table.name, _DOOMED.c.record_id == bindparam("id"))
    if ids:
        connection.execute(delete(_DOOMED).where(one), [{"id": record_id} for record_id in ids])


def unmark_all(connection: Connection, table: EntityTable) -> None:
    connection.execute(delete(_DOOMED).where(_DOOMED.c.entity_name == table.name))


def check_guard(connection: Connection, table: EntityTable, allow_deletes: bool) -> None:
    """See that what is marked is no more than half of a table of more than 100 rows.

    Raises:
        GuardError: It is more, and ``--allow-deletes`` was not given.
    """
    doomed = len(list_marked(connection, table))
    rows = count_rows(connection, table) if doomed else 0
    if not allow_deletes and rows > GUARDED_ROWS and doomed * 2 > rows:
        query = select(_DOOMED.c.reason, func.count()).where(_DOOMED.c.entity_name == table.name)
        reasons = connection.execute(query.group_by(_DOOMED.c.reason).order_by(func.count().desc()))
        raise GuardError(
            f"{table.name}: {doomed} of {rows} rows would be removed, more than half "
            f"({', '.join(f'{number} {reason}' for reason, number in reasons)}); "
            "nothing was removed",
            "Was the app's role narrowed, or a table that links here taken out of the "
            "configuration? If they are really gone, run once with --allow-deletes.",
        )


def remove_marked(connection: Connection, table: EntityTable, deleted_at: str) -> int:
    """Move the marked rows to ``_sync_deleted``; returns how many."""
    key = table.table.c[table.entity.key]
    rows = select(
        literal(table.name), key, literal(deleted_at), _DOOMED.c.reason, table.table.c.json_response
    ).where(_DOOMED.c.entity_name == table.name, _DOOMED.c.record_id == key)
    names = ["entity_name", "record_id", "deleted_at", "reason", "json_response"]
    removed = connection.execute(insert(DELETED).from_select(names, rows)).rowcount
    marked = select(_DOOMED.c.record_id).where(_DOOMED.c.entity_name == table.name)
    connection.execute(delete(table.table).where(key.in_(marked)))
    connection.execute(delete(_DOOMED).where(_DOOMED.c.entity_name == table.name))
    return removed
