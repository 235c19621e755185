"""Bring a table to a new schema, from what ``json_response`` holds already."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, MetaData, Table, bindparam, update
from sqlalchemy.schema import CreateColumn, DropTable

from dataverse_sync.errors import ConfigError, EntityError
from dataverse_sync.store.database import dialect_of, read_tables
from dataverse_sync.store.rows import VALID_FROM, SqlRow, to_rows
from dataverse_sync.store.tables import SPECIAL_COLUMNS, EntityTable
from dataverse_sync.store.upsert import rewrite

Tell = Callable[[str], None]
ROWS_AT_ONCE = 2000


def bring_to(connection: Connection, wanted: EntityTable, tell: Tell) -> None:
    """Make a table what the lock says, by adding columns if that is enough."""
    have = read_tables(connection).get(wanted.name)
    if have is None:
        wanted.table.create(connection)
        tell(f"{wanted.name}: table made")
        return
    types = {column.name: column.type for column in wanted.columns}
    new = [name for name in types if name not in have]
    kept = [name for name in types if name in have]
    is_key = have.get(wanted.entity.key, ("", False))[1]
    extra = set(have) - set(types) - set(SPECIAL_COLUMNS)
    same_types = all(have[name][0].upper() == types[name] for name in kept)
    if not new and not extra and same_types and is_key:
        tell(f"{wanted.name}: nothing to do")
    elif not extra and same_types and is_key:
        _add_columns(connection, wanted, new, tell)
    else:
        _rebuild(connection, wanted, set(have), tell)


def _add_columns(
    connection: Connection, wanted: EntityTable, new: Sequence[str], tell: Tell
) -> None:
    """``ALTER TABLE``, then fill the new columns of every row."""
    quote = connection.dialect.identifier_preparer.quote
    for name in new:
        definition = CreateColumn(wanted.table.c[name]).compile(connection)
        connection.exec_driver_sql(f"ALTER TABLE {quote(wanted.name)} ADD COLUMN {definition}")
    places = {column.name: at for at, column in enumerate(wanted.columns) if column.name in new}
    if "modifiedon" in places:
        places["valid_from"] = VALID_FROM
    key = wanted.table.c[wanted.entity.key]
    fill = update(wanted.table).where(key == bindparam("its key"))  # no column's name has a space
    done = 0
    for rows in _decode_all(connection, wanted, wanted.name, (), tell):
        values = [
            {name: row[at] for name, at in places.items()} | {"its key": row[0]} for row in rows
        ]
        connection.execute(fill, values)
        done += len(rows)
    for index in wanted.table.indexes:
        index.create(connection, checkfirst=True)
    tell(f"{wanted.name}: {len(new)} new columns filled in {done} rows: {', '.join(new)}")


def _rebuild(connection: Connection, wanted: EntityTable, have: set[str], tell: Tell) -> None:
    """A new table from the JSON of the old one; ``sync_time`` and columns that are gone stay."""
    old_name = f"_old_{wanted.name}"
    dialect_of(connection).move_aside(connection, wanted.table, old_name)
    wanted.table.create(connection)
    gone = {column.name for column in wanted.entity.columns if column.gone} & have
    places = [at for at, column in enumerate(wanted.columns) if column.name in gone]
    done = 0
    for rows in _decode_all(connection, wanted, old_name, places, tell):
        rewrite(connection, wanted, rows)
        done += len(rows)
    connection.execute(DropTable(Table(old_name, MetaData())))
    tell(f"{wanted.name}: rebuilt from its JSON, {done} rows")


def _decode_all(
    connection: Connection, wanted: EntityTable, source: str, kept: Sequence[int], tell: Tell
) -> Iterator[list[SqlRow]]:
    """Decode every stored record anew, some 2,000 at a time.

    Args:
        connection: In a transaction.
        wanted: The table that the rows are for.
        source: The name of the table that they are in.
        kept: The places in a row whose values are those of the source.
        tell: Told how far a large table has come.
    """
    columns = ["sync_time", "json_response", *(wanted.columns[at].name for at in kept)]
    iter_rows = dialect_of(connection).iter_rows
    done = 0
    for batch in iter_rows(connection, wanted.table, source, columns, ROWS_AT_ONCE):
        rows = []
        for sync_time, text, *values in batch:
            row = _decode(wanted, text, sync_time)
            for at, value in zip(kept, values, strict=True):
                row[at] = value
            rows.append(tuple(row))
        yield rows
        done += len(rows)
        if done % (ROWS_AT_ONCE * 25) == 0:
            tell(f"{wanted.name}: {done} rows so far")


def _decode(wanted: EntityTable, text: str, sync_time: str) -> list[Any]:
    try:
        (row,) = to_rows(wanted, [msgspec.Raw(text.encode())], sync_time)
    except EntityError as error:
        raise ConfigError(
            f"{wanted.name}: a stored record cannot be read",
            "Was it changed by hand? Mend it: python -m dataverse_sync verify --repair",
        ) from error
    return list(row)
