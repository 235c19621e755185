"""Bring a table to a new schema, from what ``json_response`` holds already."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

import msgspec
from sqlalchemy import Connection, MetaData, Table, bindparam, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import DropTable

from dataverse_sync.errors import ConfigError, EntityError
from dataverse_sync.model import Entity
from dataverse_sync.store.database import add_missing_columns, dialect_of
from dataverse_sync.store.keys import create_tables, make_indexes, with_keys
from dataverse_sync.store.rows import VALID_FROM, SqlRow, to_rows
from dataverse_sync.store.sync_state import load_states
from dataverse_sync.store.tables import SPECIAL_COLUMNS, EntityTable
from dataverse_sync.store.upsert import rewrite

Tell = Callable[[str], None]
ROWS_AT_ONCE = 2000


def bring_to(
    connection: Connection, wanted: EntityTable, entities: Collection[Entity], tell: Tell
) -> None:
    """Make a table what the lock says, by adding columns if that is enough.

    ``entities`` are all that are configured: what the table's foreign keys point to.
    """
    have = dialect_of(connection).read_tables(connection).get(wanted.name)
    if have is None:
        create_tables(connection, [wanted], entities)
        tell(f"{wanted.name}: table made")
        return
    types = {column.name: column.type for column in wanted.columns}
    new = [name for name in types if name not in have]
    fits = (
        have.keys() <= {*types, *SPECIAL_COLUMNS}
        and all(have[name][0].upper() == types[name] for name in types if name in have)
        and have.get(wanted.entity.key, ("", False))[1]
    )
    if not fits:
        _rebuild(connection, wanted, entities, set(have), tell)
    elif new:
        _add_columns(connection, wanted, entities, new, tell)
    made: Sequence[str] = ()
    if load_states(connection, [wanted.name])[wanted.name].has_completed:
        made = make_indexes(connection, wanted, entities)
    if made:
        tell(f"{wanted.name}: indexes made: {', '.join(made)}")
    elif fits and not new:
        tell(f"{wanted.name}: nothing to do")


def _add_columns(
    connection: Connection,
    wanted: EntityTable,
    entities: Collection[Entity],
    new: Sequence[str],
    tell: Tell,
) -> None:
    """``ALTER TABLE``, then fill the new columns of every row."""
    add_missing_columns(connection, with_keys(wanted, entities))
    places = {column.name: at for at, column in enumerate(wanted.columns) if column.name in new}
    if "modifiedon" in places:
        places["valid_from"] = VALID_FROM
    places["its key"] = 0  # no column's name has a space
    fill = update(wanted.table).where(wanted.key == bindparam("its key"))
    done = 0
    for rows in _decode_all(connection, wanted, wanted.name, (), tell):
        connection.execute(fill, [{name: row[at] for name, at in places.items()} for row in rows])
        done += len(rows)
    tell(f"{wanted.name}: {len(new)} new columns filled in {done} rows: {', '.join(new)}")


def _rebuild(
    connection: Connection,
    wanted: EntityTable,
    entities: Collection[Entity],
    have: set[str],
    tell: Tell,
) -> None:
    """A new table from the JSON of the old one; ``sync_time`` and columns that are gone stay.

    So do indexes, triggers and foreign keys, whoever has made them.
    """
    old_name, dialect = f"_old_{wanted.name}", dialect_of(connection)
    tables = dialect.read_tables(connection)
    declared = dialect.read_foreign_keys(connection, wanted.name, tables)
    dropped = dialect.move_aside(connection, wanted.table, old_name)
    with_keys(wanted, entities, declared).create(connection)
    gone = {column.name for column in wanted.entity.columns if column.gone} & have
    places = [at for at, column in enumerate(wanted.columns) if column.name in gone]
    done = 0
    for rows in _decode_all(connection, wanted, old_name, places, tell):
        rewrite(connection, wanted, rows)
        done += len(rows)
    connection.execute(DropTable(Table(old_name, MetaData())))
    for name, statement in dropped.items():
        _make_again(connection, wanted, name, statement, tell)
    tell(f"{wanted.name}: rebuilt from its JSON, {done} rows")


def _make_again(
    connection: Connection, wanted: EntityTable, name: str, statement: str, tell: Tell
) -> None:
    """Make an index or a trigger that the old table had, if the new one allows it."""
    try:
        with connection.begin_nested():
            connection.exec_driver_sql(statement)
    except DBAPIError as error:
        tell(f"{wanted.name}: {name} is dropped, it cannot be made again ({error.orig})")


def _decode_all(
    connection: Connection, wanted: EntityTable, source: str, kept: Sequence[int], tell: Tell
) -> Iterator[list[SqlRow]]:
    """Decode every record of the table ``source`` anew, some 2,000 at a time.

    ``kept`` are the places in a row whose values stay those of the source.
    """
    columns = ["sync_time", "json_response", *(wanted.columns[at].name for at in kept)]
    read = dialect_of(connection).iter_rows
    done = 0
    for batch in read(connection, wanted.table, source, columns, ROWS_AT_ONCE):
        rows = []
        for sync_time, text, *values in batch:
            try:
                (decoded,) = to_rows(wanted, [msgspec.Raw(text.encode())], sync_time)
            except EntityError as error:
                raise ConfigError(
                    f"{wanted.name}: a stored record cannot be read",
                    "Was it changed by hand? Mend it: python -m dataverse_sync verify --repair",
                ) from error
            row = list(decoded)
            for at, value in zip(kept, values, strict=True):
                row[at] = value
            rows.append(tuple(row))
        yield rows
        done += len(rows)
        if done % (ROWS_AT_ONCE * 25) == 0:
            tell(f"{wanted.name}: {done} rows so far")
