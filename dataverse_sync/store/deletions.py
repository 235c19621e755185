"""Records gone from Dataverse: found by comparing keys and versions, kept in ``_sync_deleted``.

A comparison holds what one complete read of keys and versions, or one delta read, has
returned. It is in a temporary table, as are the keys that a full read returned, so their
size is bounded by the disk and a crash forgets them. Nothing is ever removed on the word
of an incomplete read: rows are marked first, checked against the guard, and then removed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from dataverse_sync.errors import GuardError, PageError
from dataverse_sync.model import Page, Reason
from dataverse_sync.store.database import OWN_TABLES, TEMPORARY_TABLES, dialect_of, record_set
from dataverse_sync.store.tables import EntityTable
from dataverse_sync.store.upsert import count_rows

_AGAIN = "Is a proxy in between? Run again; it goes on from the last committed page."
GUARDED_ROWS = 100  # tables of more rows than this are never emptied by half unasked
EMPTIED_ROWS = 10  # and tables of more rows than this never altogether

DELETED = sa.Table(
    "_sync_deleted",
    OWN_TABLES,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("entity_name", sa.Text, nullable=False),
    sa.Column("record_id", sa.Text, nullable=False),
    sa.Column("deleted_at", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("json_response", sa.Text),
)
_RETURNED = sa.Table(
    "_returned",
    TEMPORARY_TABLES,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("entity_name", sa.Text, nullable=False),
    sa.Column("keys", sa.Text, nullable=False),  # those of one page, a JSON array
    prefixes=["TEMPORARY"],
)
_COMPARED = record_set(
    "_compared",
    sa.Column("version", sa.Text),
    sa.Column("deleted", sa.Integer, nullable=False),
    sa.Column("twice", sa.Integer, nullable=False),  # came as two things: to be asked for
)
_MARKED = record_set("_marked", sa.Column("reason", sa.Text, nullable=False))

_decode_any = msgspec.json.Decoder(dict[str, Any]).decode


# Comparing keys and versions


def start_comparison(connection: sa.Connection, name: str) -> None:
    for kept in (_COMPARED, _MARKED):
        connection.execute(sa.delete(kept).where(kept.c.entity_name == name))


def add_to_comparison(
    connection: sa.Connection,
    table: EntityTable,
    page: Page,
    wanted: Collection[str] | None = None,
) -> list[str]:
    """Add the keys and versions of a page, and its deleted entries, in the order they came.

    Only the keys ``wanted``, in lower case, are added; all if None. Returns those that were;
    raises PageError if an entry has none.
    """
    rows = [(table.name, *entry, 0) for entry in _read_entries(table, page)]
    if wanted is not None:
        rows = [row for row in rows if row[1].lower() in wanted]
    if not rows:
        return []
    is_both = _COMPARED.c.deleted != _COMPARED.alias("excluded").c.deleted
    if table.entity.kind == "elastic":  # of whose records two may have the same id
        is_both = sa.true()
    twice = sa.case((is_both, sa.literal_column("1")), else_=_COMPARED.c.twice)
    statement = dialect_of(connection).insert_or_update(
        _COMPARED, ["version", "deleted"], {"twice": twice}
    )
    # Text and tuples: SQLAlchemy takes 1.7 times as long for dicts.
    sql = str(statement.values(dict.fromkeys(_COMPARED.c.keys())).compile(connection))
    connection.exec_driver_sql(sql, rows)
    return [row[1] for row in rows]


def _read_entries(table: EntityTable, page: Page) -> list[tuple[str, str | None, int]]:
    """The key, the version, and whether it is deleted, of each entry."""
    key_name, version_name = table.entity.key, table.entity.version_column or ""
    entries = []
    for record in page.records:
        try:
            entry = _decode_any(record)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise PageError(f"{page.request}: an entry cannot be read ({error})", _AGAIN) from error
        deleted = entry.get("reason") == "deleted" and key_name not in entry
        key = entry.get("id") if deleted else entry.get(key_name)
        if not isinstance(key, str) or not key:
            raise PageError(f"{page.request}: an entry has no {key_name}", _AGAIN)
        version = entry.get(version_name)
        entries.append((key, None if version is None else str(version), int(deleted)))
    return entries


def holds_exactly(connection: sa.Connection, table: EntityTable, page: Page) -> bool:
    """Whether the entries of a page are the keys and versions of all rows: nothing differs."""
    version = table.entity.version_column
    stored = sa.cast(table.table.c[version], sa.Text) if version else sa.null()
    with connection.execute(sa.select(table.key, stored, sa.literal_column("0"))) as result:
        # By the driver's own cursor: the table may be larger than the page.
        cursor: Any = result.cursor
        rows = cursor.fetchmany(len(page.records) + 1)
    return len(rows) == len(page.records) and set(rows) == set(_read_entries(table, page))


def find_differing(
    connection: sa.Connection,
    table: EntityTable,
    bookmark: str | None = None,
    now: str | None = None,
    *,
    began: str | None = None,
) -> Sequence[str]:
    """Ids in the comparison whose row is missing or of another version: they must be fetched.

    If ``modifiedon`` alone tells versions apart, rows that are newer than ``bookmark`` may have
    changed again within their second, and count as of another version; but not those that are
    dated after ``now``. What change tracking has named has changed, whatever ``modifiedon`` or a
    version that is null say, unless its row was written since that run ``began``.
    """
    same = table.key == _COMPARED.c.record_id
    if (name := table.entity.version_column) is not None:
        version = table.table.c[name]
        same &= sa.cast(version, sa.Text).is_not_distinct_from(_COMPARED.c.version)
        if bookmark is not None:
            same &= version.is_not(None)  # else nothing tells whether it changed
        if bookmark is not None and name == "modifiedon":
            is_settled = version <= bookmark
            same &= is_settled if now is None else sa.or_(is_settled, version > now)
        if began is not None:
            is_told = version.is_not(None) if name == "versionnumber" else sa.false()
            same &= sa.or_(is_told, table.table.c.sync_time >= began)
    query = sa.select(_COMPARED.c.record_id).where(
        _COMPARED.c.entity_name == table.name,
        sa.or_(sa.and_(_COMPARED.c.deleted == 0, ~sa.exists().where(same)), _COMPARED.c.twice == 1),
    )
    return connection.execute(query).scalars().all()


def has_gone_back(connection: sa.Connection, table: EntityTable, before: str) -> bool:
    """Whether a record of the comparison has an older version than its row: a restored backup.

    Rows that were not written ``before`` that moment may be newer than the comparison.
    """
    if table.entity.version_column != "versionnumber":
        return False
    row, came = table.table.c["versionnumber"], sa.cast(_COMPARED.c.version, sa.BigInteger)
    older = sa.and_(table.key == _COMPARED.c.record_id, row > came, came > 0)
    older &= table.table.c.sync_time < before
    mine = _COMPARED.c.entity_name == table.name, _COMPARED.c.deleted == 0
    query = sa.select(sa.literal(1)).where(*mine, sa.exists().where(older)).limit(1)
    return connection.execute(query).first() is not None


def count_changed(connection: sa.Connection, name: str) -> int:
    """How many records of the comparison are not deleted."""
    query = sa.select(sa.func.count()).where(_COMPARED.c.entity_name == name)
    return connection.execute(query.where(_COMPARED.c.deleted == 0)).scalar_one()


def missing_from_comparison(table: EntityTable) -> sa.Select[Any]:
    """Keys of rows that a complete comparison does not hold."""
    return sa.select(table.key).where(~_is_compared(table))


def deleted_in_comparison(table: EntityTable) -> sa.Select[Any]:
    """Keys of rows that a delta read says are deleted, and does not also say have changed."""
    is_deleted = _is_compared(table).where(_COMPARED.c.deleted == 1, _COMPARED.c.twice == 0)
    return sa.select(table.key).where(is_deleted)


def _is_compared(table: EntityTable) -> sa.Exists:
    return sa.exists().where(
        _COMPARED.c.entity_name == table.name, _COMPARED.c.record_id == table.key
    )


class ReturnedKeys:
    """The keys that a full read of a table has returned so far.

    Nearly always every row was returned. That is seen without looking up each key: by the
    first page, if it holds as many keys as the table has rows, and else by the sum of the
    keys' hashes, which is the same for the same keys in any order (0.5 us a key, looking it
    up 4.8 us). Keys are looked up only if the sums differ.
    """

    def __init__(self, connection: sa.Connection, table: EntityTable) -> None:
        self._connection = connection
        self._table = table
        self._sum: int | None = None  # None before the first page
        self._is_complete = False
        self._odd: list[str] = []  # keys that hold U+0000, where SQL would cut them

    def add(self, keys: Sequence[str]) -> None:
        """Add the keys of a page; its rows are stored already."""
        if self._sum is None:
            self._sum = 0
            mine = _RETURNED.c.entity_name == self._table.name
            self._connection.execute(sa.delete(_RETURNED).where(mine))
            self._is_complete = len(set(keys)) == count_rows(self._connection, self._table)
        self.add_more(keys)

    def add_more(self, keys: Iterable[str]) -> None:
        """Add keys that were asked for one by one, after the pages."""
        if self._sum is not None and not self._is_complete:
            listed = [*keys]
            self._sum += sum(map(hash, listed))
            text = msgspec.json.encode(listed).decode()
            if "\\u0000" in text:
                self._odd += [key for key in listed if "\0" in key]
                text = msgspec.json.encode([key for key in listed if "\0" not in key]).decode()
            row = {"entity_name": self._table.name, "keys": text}
            self._connection.execute(sa.insert(_RETURNED), row)

    def find_missing(self) -> sa.Select[Any] | None:
        """Keys of rows that the read, now complete, did not return; None if there are none."""
        if self._sum is None or self._is_complete or self._sum == self._sum_stored_keys():
            return None
        item = dialect_of(self._connection).each_of(_RETURNED.c["keys"])
        mine = _RETURNED.c.entity_name == self._table.name
        returned = sa.select(item.c.value).select_from(_RETURNED, item).where(mine)
        key = self._table.key
        return sa.select(key).where(key.not_in(returned), key.not_in(self._odd))

    def _sum_stored_keys(self) -> int:
        with self._connection.execute(sa.select(self._table.key)) as result:
            # By the driver's own cursor: a row of SQLAlchemy for each key would double the time.
            cursor: Any = result.cursor
            return sum(hash(key) for (key,) in cursor)


# Marking and removing


def mark_for_removal(
    connection: sa.Connection, table: EntityTable, keys: sa.Select[Any], reason: Reason
) -> None:
    """Mark rows for removal; nothing is removed yet."""
    chosen = keys.add_columns(sa.literal(table.name), sa.literal(reason))
    statement = dialect_of(connection).insert_or_ignore(_MARKED)
    connection.execute(statement.from_select(["record_id", "entity_name", "reason"], chosen))


def mark_ids_for_removal(
    connection: sa.Connection, table: EntityTable, ids: Iterable[str], reason: Reason
) -> None:
    if rows := [{"entity_name": table.name, "record_id": key, "reason": reason} for key in ids]:
        connection.execute(dialect_of(connection).insert_or_ignore(_MARKED), rows)


def list_marked(
    connection: sa.Connection, table: EntityTable, written_since: str = ""
) -> Sequence[str]:
    """Keys of the marked rows; of those alone that were written since a moment, if it is given."""
    marked = _marked_keys(table)
    if written_since:
        written = table.table.c.sync_time >= written_since
        marked = marked.where(_MARKED.c.record_id.in_(sa.select(table.key).where(written)))
    return connection.execute(marked).scalars().all()


def unmark(connection: sa.Connection, table: EntityTable, ids: Iterable[str]) -> None:
    """Keep these rows after all."""
    marks = sa.delete(_MARKED).where(_MARKED.c.entity_name == table.name)
    if rows := [{"id": record_id} for record_id in ids]:
        connection.execute(marks.where(_MARKED.c.record_id == sa.bindparam("id")), rows)


def unmark_all(connection: sa.Connection, table: EntityTable) -> None:
    connection.execute(sa.delete(_MARKED).where(_MARKED.c.entity_name == table.name))


def check_guard(
    connection: sa.Connection, table: EntityTable, allow_deletes: bool, *, added: int
) -> None:
    """Raise GuardError if too much is marked.

    That is more than half of a table of more than 100 rows, or all of one of more than 10; so many
    rows were ``added`` in this run, and do not count.
    """
    query = sa.select(_MARKED.c.reason, sa.func.count()).where(
        _MARKED.c.entity_name == table.name, _MARKED.c.record_id.in_(sa.select(table.key))
    )
    query = query.group_by(_MARKED.c.reason).order_by(sa.func.count().desc())
    reasons = connection.execute(query).all()
    marked = sum(number for _, number in reasons)
    rows = count_rows(connection, table) - added if marked else 0
    is_half = rows > GUARDED_ROWS and marked * 2 > rows
    if not allow_deletes and (is_half or rows <= marked > EMPTIED_ROWS):
        raise GuardError(
            f"{table.name}: {marked} of {rows} rows would be removed, "
            f"{'more than half' if marked < rows else 'the whole table'} "
            f"({', '.join(f'{number} {reason}' for reason, number in reasons)}); "
            "nothing was removed",
            "Was the app's role narrowed, or a table that links here taken out of the "
            "configuration? If they are really gone, run once with --allow-deletes.",
        )


def remove_marked(connection: sa.Connection, table: EntityTable, deleted_at: str) -> int:
    """Move the marked rows to ``_sync_deleted``; returns how many."""
    key, text = table.key, table.table.c.json_response
    moved = sa.select(
        sa.literal(table.name), key, sa.literal(deleted_at), _MARKED.c.reason, text
    ).where(_MARKED.c.entity_name == table.name, _MARKED.c.record_id == key)
    names = ["entity_name", "record_id", "deleted_at", "reason", "json_response"]
    removed = connection.execute(sa.insert(DELETED).from_select(names, moved)).rowcount
    connection.execute(sa.delete(table.table).where(key.in_(_marked_keys(table))))
    unmark_all(connection, table)
    return removed


def _marked_keys(table: EntityTable) -> sa.Select[Any]:
    return sa.select(_MARKED.c.record_id).where(_MARKED.c.entity_name == table.name)
