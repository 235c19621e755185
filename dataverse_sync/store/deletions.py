"""Records gone from Dataverse: found by comparing keys and versions, kept in ``_sync_deleted``.

A comparison holds what one complete read of keys and versions, or one delta read, has
returned. It is in a temporary table, as are the keys that a full read returned, so their
size is bounded by the disk and a crash forgets them. Nothing is ever removed on the word
of an incomplete read: rows are marked first, checked against the guard, and then removed.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import msgspec
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Integer,
    Select,
    Table,
    Text,
    and_,
    bindparam,
    case,
    cast,
    delete,
    exists,
    func,
    insert,
    literal,
    literal_column,
    or_,
    select,
)

from dataverse_sync.errors import GuardError, PageError
from dataverse_sync.model import Page, Reason
from dataverse_sync.store.database import OWN_TABLES, TEMPORARY_TABLES, dialect_of, record_set
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
_RETURNED = Table(
    "_returned",
    TEMPORARY_TABLES,
    Column("id", Integer, primary_key=True),
    Column("entity_name", Text, nullable=False),
    Column("keys", Text, nullable=False),  # those of one page, a JSON array
    prefixes=["TEMPORARY"],
)
_COMPARED = record_set(
    "_compared",
    Column("version", Text),
    Column("deleted", Integer, nullable=False),
    Column("twice", Integer, nullable=False),  # both changed and deleted in one delta
)
_MARKED = record_set("_marked", Column("reason", Text, nullable=False))

_decode_any = msgspec.json.Decoder(dict[str, Any]).decode


# Comparing keys and versions


def start_comparison(connection: Connection, name: str) -> None:
    connection.execute(delete(_COMPARED).where(_COMPARED.c.entity_name == name))
    connection.execute(delete(_MARKED).where(_MARKED.c.entity_name == name))


def add_to_comparison(connection: Connection, table: EntityTable, page: Page) -> list[str]:
    """Add the keys and versions of a page, and its deleted entries, in the order they came.

    Returns:
        The keys.

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
    is_both = _COMPARED.c.deleted != _COMPARED.alias("excluded").c.deleted
    twice = case((is_both, literal_column("1")), else_=_COMPARED.c.twice)
    statement = dialect_of(connection).insert_or_update(
        _COMPARED, ["version", "deleted"], {"twice": twice}
    )
    # Text and tuples: SQLAlchemy takes 1.7 times as long for dicts.
    sql = str(statement.values(dict.fromkeys(_COMPARED.c.keys())).compile(connection))
    connection.exec_driver_sql(sql, rows)
    return [row[1] for row in rows]


def find_differing(
    connection: Connection, table: EntityTable, settled: str | None = None
) -> Sequence[str]:
    """Ids in the comparison whose row is missing or of another version: they must be fetched.

    Args:
        connection: In a transaction.
        table: The table that is compared.
        settled: If ``modifiedon`` alone tells versions apart, rows that are newer than this
            may have changed again within their second, and count as of another version.
    """
    version = table.entity.version_column
    same = _key(table) == _COMPARED.c.record_id
    if version is not None:
        stored = cast(table.table.c[version], Text)
        same = and_(same, stored.is_not_distinct_from(_COMPARED.c.version))
    if settled is not None and version == "modifiedon":
        same = and_(same, table.table.c[version] <= settled)
    query = select(_COMPARED.c.record_id).where(
        _COMPARED.c.entity_name == table.name,
        or_(and_(_COMPARED.c.deleted == 0, ~exists().where(same)), _COMPARED.c.twice == 1),
    )
    return connection.execute(query).scalars().all()


def count_changed(connection: Connection, name: str) -> int:
    """How many records of the comparison are not deleted."""
    query = select(func.count()).where(_COMPARED.c.entity_name == name, _COMPARED.c.deleted == 0)
    return connection.execute(query).scalar_one()


def missing_from_comparison(table: EntityTable) -> Select[Any]:
    """Keys of rows that a complete comparison does not hold."""
    key = _key(table)
    named = exists().where(_COMPARED.c.entity_name == table.name, _COMPARED.c.record_id == key)
    return select(key).where(~named)


def deleted_in_comparison(table: EntityTable) -> Select[Any]:
    """Keys of rows that a delta read says are deleted, and does not also say have changed."""
    key = _key(table)
    return select(key).where(
        exists().where(
            _COMPARED.c.entity_name == table.name,
            _COMPARED.c.record_id == key,
            _COMPARED.c.deleted == 1,
            _COMPARED.c.twice == 0,
        )
    )


class ReturnedKeys:
    """The keys that a full read of a table has returned so far.

    Nearly always every row was returned. That is seen without looking up each key: by the
    first page, if it holds as many keys as the table has rows, and else by the sum of the
    keys' hashes, which is the same for the same keys in any order (0.5 us a key, looking it
    up 4.8 us). Keys are looked up only if the sums differ.
    """

    def __init__(self, connection: Connection, table: EntityTable) -> None:
        self._connection = connection
        self._table = table
        self._sum: int | None = None  # None before the first page
        self._is_complete = False

    def add(self, keys: Sequence[str]) -> None:
        """Add the keys of a page; its rows are stored already."""
        if self._sum is None:
            self._sum = 0
            mine = _RETURNED.c.entity_name == self._table.name
            self._connection.execute(delete(_RETURNED).where(mine))
            self._is_complete = len(set(keys)) == count_rows(self._connection, self._table)
        if not self._is_complete:  # else a row that is stored later was returned too
            self._sum += sum(map(hash, keys))
            row = {"entity_name": self._table.name, "keys": json.dumps(keys)}
            self._connection.execute(insert(_RETURNED), row)

    def find_missing(self) -> Select[Any] | None:
        """Keys of rows that the read, now complete, did not return; None if there are none."""
        if self._sum is None or self._is_complete or self._sum == self._sum_stored_keys():
            return None
        key = _key(self._table)
        item = dialect_of(self._connection).each_of(_RETURNED.c["keys"])
        returned = select(item.c.value).select_from(_RETURNED, item)
        return select(key).where(
            key.not_in(returned.where(_RETURNED.c.entity_name == self._table.name))
        )

    def _sum_stored_keys(self) -> int:
        with self._connection.execute(select(_key(self._table))) as result:
            # By the driver's own cursor: a row of SQLAlchemy for each key would double the time.
            cursor: Any = result.cursor
            return sum(hash(key) for (key,) in cursor)


# Marking and removing


def mark_for_removal(
    connection: Connection, table: EntityTable, keys: Select[Any], reason: Reason
) -> None:
    """Mark rows for removal; nothing is removed yet."""
    chosen = keys.add_columns(literal(table.name), literal(reason))
    statement = dialect_of(connection).insert_or_ignore(_MARKED)
    connection.execute(statement.from_select(["record_id", "entity_name", "reason"], chosen))


def mark_ids_for_removal(
    connection: Connection, table: EntityTable, ids: Iterable[str], reason: Reason
) -> None:
    """Mark rows for removal by their ids."""
    rows = [{"entity_name": table.name, "record_id": key, "reason": reason} for key in ids]
    if rows:
        connection.execute(dialect_of(connection).insert_or_ignore(_MARKED), rows)


def list_marked(connection: Connection, table: EntityTable) -> Sequence[str]:
    return connection.execute(select(_MARKED.c.record_id).where(_marks_of(table))).scalars().all()


def unmark(connection: Connection, table: EntityTable, ids: Collection[str]) -> None:
    """Keep these rows after all."""
    marks = delete(_MARKED).where(_marks_of(table), _MARKED.c.record_id == bindparam("id"))
    if ids:
        connection.execute(marks, [{"id": record_id} for record_id in ids])


def unmark_all(connection: Connection, table: EntityTable) -> None:
    connection.execute(delete(_MARKED).where(_marks_of(table)))


def check_guard(connection: Connection, table: EntityTable, allow_deletes: bool) -> None:
    """See that not more than half of a table of more than 100 rows is marked.

    Raises:
        GuardError: More is marked, and ``--allow-deletes`` was not given.
    """
    marked = len(list_marked(connection, table))
    rows = count_rows(connection, table) if marked else 0
    if not allow_deletes and rows > GUARDED_ROWS and marked * 2 > rows:
        query = select(_MARKED.c.reason, func.count()).where(_marks_of(table))
        reasons = connection.execute(query.group_by(_MARKED.c.reason).order_by(func.count().desc()))
        raise GuardError(
            f"{table.name}: {marked} of {rows} rows would be removed, more than half "
            f"({', '.join(f'{number} {reason}' for reason, number in reasons)}); "
            "nothing was removed",
            "Was the app's role narrowed, or a table that links here taken out of the "
            "configuration? If they are really gone, run once with --allow-deletes.",
        )


def remove_marked(connection: Connection, table: EntityTable, deleted_at: str) -> int:
    """Move the marked rows to ``_sync_deleted``; returns how many."""
    key = _key(table)
    rows = select(
        literal(table.name), key, literal(deleted_at), _MARKED.c.reason, table.table.c.json_response
    ).where(_marks_of(table), _MARKED.c.record_id == key)
    names = ["entity_name", "record_id", "deleted_at", "reason", "json_response"]
    removed = connection.execute(insert(DELETED).from_select(names, rows)).rowcount
    marked = select(_MARKED.c.record_id).where(_marks_of(table))
    connection.execute(delete(table.table).where(key.in_(marked)))
    unmark_all(connection, table)
    return removed


def _key(table: EntityTable) -> Column[str]:
    return table.table.c[table.entity.key]


def _marks_of(table: EntityTable) -> ColumnElement[bool]:
    return _MARKED.c.entity_name == table.name
