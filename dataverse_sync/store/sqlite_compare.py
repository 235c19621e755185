"""Which records are stored as they came: up to 500 rows are compared as one text.

A page that came before lies together in the file, in its order. SQLite joins the rows from the
first key on, and two texts are compared instead of 500 pairs: 1.7 us a row of 1.2 kB, against
2.4 us one row after another (about 5 % of a ``--full`` in which nothing has changed), and 8 us
by the index of random keys.

    keys    k1,k2,k3 ...      = group_concat(key)             of the rows that follow k1's
    records {...},{...} ...   = group_concat(json_response)

If they differ, the same rows are compared one after another, and what is left by its key.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import islice
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from dataverse_sync.store.tables import EntityTable

# Rows of 128 KiB and more are not joined: SQLite holds no text of more than 1 GB.
_JOINED = """
    SELECT group_concat({key}), CAST(group_concat(json_response) AS BLOB) FROM (
        SELECT {key}, json_response FROM {table}
        WHERE {row} >= (SELECT {row} FROM {table} WHERE {key} = ?)
        AND typeof({key}) = 'text' AND typeof(json_response) = 'text'
        AND length(CAST(json_response AS BLOB)) < 131072 ORDER BY {row} LIMIT ?
    )
"""
_FROM_KEY_ON = """
    SELECT {key}, CAST(json_response AS BLOB) FROM {table}
    WHERE {row} >= (SELECT {row} FROM {table} WHERE {key} = ?)
    AND typeof(json_response) = 'text' ORDER BY {row}
"""
_BY_KEYS = """
    SELECT {key}, CAST(json_response AS BLOB) FROM {table}
    WHERE {key} IN ({keys}) AND typeof(json_response) = 'text'
"""
# A table of the name json_each hides the function, but only in the schema that it is in; nothing
# is called so in the schema of temporary tables.
EACH = "SELECT value FROM temp.json_each(?)"


def find_unchanged(
    connection: sa.Connection,
    table: EntityTable,
    keys: Sequence[str],
    records: Sequence[msgspec.Raw],
) -> set[str]:
    """The keys under which this very record is stored; see ``database.Dialect``."""
    run, rows = connection.exec_driver_sql, table.table
    joined = run(for_table(_JOINED, rows), (keys[0], len(keys))).one()
    if joined == (",".join(keys), b",".join(records)):
        return set(keys)
    came = dict(zip(keys, map(bytes, records), strict=True))
    with run(for_table(_FROM_KEY_ON, rows), (keys[0],)) as result:
        cursor: Any = result.cursor  # the driver's own: its rows are plain tuples
        unchanged = {key for key, text in islice(cursor, len(keys)) if came.get(key) == text}
    if others := [key for key in keys if key not in unchanged]:
        found = select_by_keys(connection, _BY_KEYS, rows, others)
        unchanged.update(key for key, text in found if came.get(key) == text)
    return unchanged


def select_by_keys(
    connection: sa.Connection, query: str, table: sa.Table, keys: Sequence[str]
) -> Iterable[Any]:
    """Run a query on the rows with these keys, 500 at most, in place of its ``{keys}``."""
    if any("\0" in key for key in keys):  # json_each would cut such a key
        listed = ", ".join("?" * len(keys))
        return connection.exec_driver_sql(for_table(query, table, listed), tuple(keys))
    return connection.exec_driver_sql(for_table(query, table), (json.dumps(keys),))


@cache
def for_table(query: str, table: sa.Table, keys: str = EACH) -> str:
    """A query with the names of a table, quoted: SQLAlchemy takes a millisecond to compile one."""
    key = next(iter(table.primary_key)).name
    row = choose_row_number(table)
    return query.format(table=quote(table.name), key=quote(key), row=row, keys=keys)


def choose_row_number(table: sa.Table) -> str:
    """SQLite's number of a row; a column of such a name hides it, and takes a scan."""
    taken = {column.name.lower() for column in table.c}
    return next((name for name in ("rowid", "_rowid_", "oid") if name not in taken), "rowid")


def quote(name: str) -> str:
    return sqlite.dialect().identifier_preparer.quote(name)
