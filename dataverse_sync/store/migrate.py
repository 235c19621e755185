"""Bring a table to the schema that is to be locked, from what ``json_response`` holds already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Table
from sqlalchemy.schema import CreateColumn

from dataverse_sync.errors import ConfigError, EntityError
from dataverse_sync.store import database
from dataverse_sync.store.rows import VALID_FROM, to_rows
from dataverse_sync.store.tables import SPECIAL_COLUMNS, EntityTable, compile_upsert

Tell = Callable[[str], None]
ROWS_AT_ONCE = 2000


def bring_to(connection: Connection, wanted: EntityTable, tell: Tell) -> None:
    """Make a table what the lock says, by adding columns where that is enough."""
    have = database.read_tables(connection).get(wanted.name)
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
        definition = CreateColumn(wanted.table.c[name]).compile(dialect=connection.dialect)
        connection.exec_driver_sql(f"ALTER TABLE {quote(wanted.name)} ADD COLUMN {definition}")
    at = [index for index, column in enumerate(wanted.columns) if column.name in new]
    names = [wanted.columns[index].name for index in at]
    if "modifiedon" in names:
        at.append(VALID_FROM)
        names.append("valid_from")
    sets = ", ".join(f"{quote(name)} = ?" for name in names)
    key = quote(wanted.entity.key)
    sql = f"UPDATE {quote(wanted.name)} SET {sets} WHERE {key} = ?"  # noqa: S608  quoted, bound

    def fill(rows: Sequence[tuple[Any, ...]]) -> None:
        connection.exec_driver_sql(sql, [(*(row[i] for i in at), row[0]) for row in rows])

    done = _each_row(connection, wanted, wanted.name, fill, tell)
    _make_indexes(connection, wanted.table)
    tell(f"{wanted.name}: {len(new)} new columns filled in {done} rows: {', '.join(new)}")


def _rebuild(connection: Connection, wanted: EntityTable, have: set[str], tell: Tell) -> None:
    """A new table from the JSON of the old one; ``sync_time`` and columns that are gone stay."""
    quote = connection.dialect.identifier_preparer.quote
    old_name = f"_old_{wanted.name}"
    # Else a view of the table would follow the rename, and go with the old table.
    connection.exec_driver_sql("PRAGMA legacy_alter_table = ON")
    for index in wanted.table.indexes:
        connection.exec_driver_sql(f"DROP INDEX IF EXISTS {quote(str(index.name))}")
    connection.exec_driver_sql(f"ALTER TABLE {quote(wanted.name)} RENAME TO {quote(old_name)}")
    wanted.table.create(connection)
    gone = [column.name for column in wanted.entity.columns if column.gone and column.name in have]
    places = [at for at, column in enumerate(wanted.columns) if column.name in gone]
    kept = [quote(wanted.columns[at].name) for at in places]
    insert = compile_upsert(wanted.table)

    def fill(rows: Sequence[tuple[Any, ...]]) -> None:
        values = [list(row) for row in rows]
        if kept:
            for row in values:
                stored = connection.exec_driver_sql(
                    f"SELECT {', '.join(kept)} FROM {quote(old_name)} "  # noqa: S608  quoted
                    f"WHERE {quote(wanted.entity.key)} = ?",
                    (row[0],),
                ).one()
                for at, value in zip(places, stored, strict=True):
                    row[at] = value
        connection.exec_driver_sql(insert, [tuple(row) for row in values])

    done = _each_row(connection, wanted, old_name, fill, tell)
    connection.exec_driver_sql(f"DROP TABLE {quote(old_name)}")
    tell(f"{wanted.name}: rebuilt from its JSON, {done} rows")


def _each_row(
    connection: Connection,
    wanted: EntityTable,
    source: str,
    use: Callable[[Sequence[tuple[Any, ...]]], None],
    tell: Tell,
) -> int:
    """Decode every stored record anew; returns how many there were."""
    last, done = 0, 0
    quote = connection.dialect.identifier_preparer.quote
    sql = (
        f"SELECT rowid, sync_time, json_response FROM {quote(source)} "  # noqa: S608  quoted
        f"WHERE rowid > ? ORDER BY rowid LIMIT {ROWS_AT_ONCE:d}"
    )
    while batch := connection.exec_driver_sql(sql, (last,)).all():
        rows = []
        for _, sync_time, text in batch:
            try:
                rows += to_rows(wanted, [msgspec.Raw(text.encode())], sync_time)
            except EntityError as error:
                raise ConfigError(
                    f"{wanted.name}: a stored record cannot be read",
                    "Was it changed by hand? Mend it: python -m dataverse_sync verify --repair",
                ) from error
        use(rows)
        last = batch[-1][0]
        done += len(batch)
        if done % (ROWS_AT_ONCE * 25) == 0:
            tell(f"{wanted.name}: {done} rows so far")
    return done


def _make_indexes(connection: Connection, table: Table) -> None:
    for index in table.indexes:
        index.create(connection, checkfirst=True)
