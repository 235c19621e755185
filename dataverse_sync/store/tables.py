"""The table of an entity: its columns, and the decoder of its records.

The schema lock says which columns a table has. Does a lock fit the tables of a database?
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, cast

import msgspec
from sqlalchemy import Column as SqlColumn
from sqlalchemy import MetaData, Table
from sqlalchemy.types import INTEGER, REAL, TEXT

from dataverse_sync.model import Column, ColumnType, Entity
from dataverse_sync.schema.lock import SchemaLock

SPECIAL_COLUMNS = ("sync_time", "valid_from", "json_response")
MOST_COLUMNS = 1990  # of a record; SQLite allows 2,000 in a table
_SQL_TYPES: Mapping[ColumnType, Any] = {"TEXT": TEXT, "INTEGER": INTEGER, "REAL": REAL}
INT64 = (-(2**63), 2**63 - 1)
# Each table of a database: its columns, with declared type and whether it is in the key.
StoredTables = Mapping[str, Mapping[str, tuple[str, bool]]]
_JSON_TYPES: Mapping[ColumnType, Any] = {
    "TEXT": str | None,
    "INTEGER": Annotated[int, msgspec.Meta(ge=INT64[0], le=INT64[1])] | bool | None,
    "REAL": float | None,
}


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A foreign key of a table, as it is declared; nothing enforces it."""

    columns: tuple[str, ...]
    target: str  # the table that is pointed to
    to: tuple[str, ...]  # its columns
    on_update: str | None = None
    on_delete: str | None = None


@dataclass(frozen=True, slots=True)
class EntityTable:
    """An entity's table, with what is needed to write records into it quickly."""

    entity: Entity
    table: Table
    columns: tuple[Column, ...]  # those that became columns, the key first
    left_out: tuple[str, ...]  # names that SQLite would merge with another
    decode: Callable[[msgspec.Raw], msgspec.Struct]
    decode_head: Callable[[msgspec.Raw], Any]  # its key and modifiedon alone

    @property
    def name(self) -> str:
        return self.entity.name

    @property
    def key(self) -> SqlColumn[Any]:
        return self.table.c[self.entity.key]

    def value(self, row: Sequence[Any], name: str | None) -> Any:
        """What a row has in the column of this name; None if there is no such column."""
        pairs = zip(self.columns, row, strict=False)
        return next((value for column, value in pairs if column.name == name), None)


def build_table(entity: Entity) -> EntityTable:
    """The table of an entity: its columns and the special ones; indexes are made in ``keys``."""
    columns, left_out = _choose_columns(entity)
    table = Table(
        entity.name,
        MetaData(),
        SqlColumn(entity.key, TEXT, primary_key=True),
        *(SqlColumn(column.name, _SQL_TYPES[column.type]) for column in columns[1:]),
        *(SqlColumn(name, TEXT) for name in SPECIAL_COLUMNS),
    )
    struct = msgspec.defstruct(
        "Record",
        [(f"c{at}", _JSON_TYPES[column.type], None) for at, column in enumerate(columns)],
        rename={f"c{at}": column.name for at, column in enumerate(columns)},
        gc=False,
    )
    head = msgspec.defstruct(
        "Head",
        [("key", str), ("modifiedon", str | None, None)],
        rename={"key": entity.key},
        gc=False,
    )
    decode = cast(Any, msgspec.json.Decoder(struct).decode)
    decode_head = msgspec.json.Decoder(head).decode
    return EntityTable(entity, table, columns, left_out, decode, decode_head)


def _choose_columns(entity: Entity) -> tuple[tuple[Column, ...], tuple[str, ...]]:
    """One column for names that differ only by case, none that is named like a special one.

    Sorted, so that the choice is the same whatever order the columns came in.
    """
    taken = {entity.key.lower(), *SPECIAL_COLUMNS}
    chosen = [Column(entity.key, "TEXT")]
    left_out = []
    for column in sorted(entity.columns, key=lambda column: column.name):
        if column.name == entity.key:
            continue
        if column.name.lower() in taken or len(chosen) == MOST_COLUMNS:
            left_out.append(column.name)
        else:
            taken.add(column.name.lower())
            chosen.append(column)
    return tuple(chosen), tuple(left_out)


def find_misfits(lock: SchemaLock, tables: StoredTables) -> Sequence[str]:
    """One sentence for each locked entity that does not fit its table."""
    misfits = []
    for entity in lock.values():
        if (have := tables.get(entity.name)) is None:
            continue
        wanted = {column.name: column.type for column in _choose_columns(entity)[0]}
        missing = [name for name in (*wanted, *SPECIAL_COLUMNS) if name not in have]
        retyped = [
            name for name in wanted if name in have and have[name][0].upper() != wanted[name]
        ]
        keys = [name for name, (_, is_key) in have.items() if is_key]
        if missing:
            misfits.append(f"table {entity.name} lacks {_some(missing)}")
        elif retyped:
            misfits.append(f"table {entity.name} has another type for {_some(retyped)}")
        elif keys != [entity.key]:
            misfits.append(f"table {entity.name} has the key {keys}, not {entity.key}")
    return misfits


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown
