"""The schema lock: the file, the tables built from it, and records turned into rows.

The lock says which columns a table has; a record may hold more (they stay in
``json_response``) or less (they are null). Types are made to fit here, so that
no record the service sends can break a row.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import msgspec
from sqlalchemy import Column as SqlColumn
from sqlalchemy import Index, MetaData, Table
from sqlalchemy.dialects import sqlite
from sqlalchemy.types import INTEGER, REAL, TEXT, TypeEngine

from dataverse_sync.errors import ConfigError, PageError
from dataverse_sync.model import IDENTIFIER, Column, ColumnType, Entity

LOCK_VERSION = 1
SPECIAL_COLUMNS = ("sync_time", "valid_from", "json_response")
INDEXED = ("modifiedon", "createdon")
MOST_COLUMNS = 1990  # of a record; SQLite allows 2,000 in a table
_SQL_TYPES: Mapping[ColumnType, TypeEngine[Any]] = {
    "TEXT": TEXT(),
    "INTEGER": INTEGER(),
    "REAL": REAL(),
}
_REPORT = "Run again; if it stays, report it. The other tables are not concerned."
_INT64 = (-(2**63), 2**63 - 1)
_JSON_TYPES: Mapping[ColumnType, Any] = {
    "TEXT": str | None,
    "INTEGER": Annotated[int, msgspec.Meta(ge=_INT64[0], le=_INT64[1])] | bool | None,
    "REAL": float | None,
}

SqlRow = tuple[Any, ...]  # the key first; at the end sync_time, valid_from, json_response
Head = tuple[str, str | None]  # key and modifiedon
VALID_FROM, JSON_RESPONSE = -2, -1  # where they stand in a row
Lock = dict[str, Entity]  # entity set → what is locked


# Tables


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


def build_table(entity: Entity, metadata: MetaData | None = None) -> EntityTable:
    """The table of an entity: its columns, the special ones, the indexes."""
    columns, left_out = _choose_columns(entity)
    table = Table(
        entity.name,
        metadata if metadata is not None else MetaData(),
        *(
            SqlColumn(
                column.name,
                _SQL_TYPES[column.type],
                primary_key=column.name == entity.key,
                nullable=column.name != entity.key,
            )
            for column in columns
        ),
        *(SqlColumn(name, TEXT()) for name in SPECIAL_COLUMNS),
    )
    for name in INDEXED:
        if name in table.c:
            Index(f"idx_{entity.name}_{name}", table.c[name])
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
    return EntityTable(
        entity,
        table,
        columns,
        left_out,
        cast(Any, msgspec.json.Decoder(struct).decode),
        msgspec.json.Decoder(head).decode,
    )


def _choose_columns(entity: Entity) -> tuple[tuple[Column, ...], tuple[str, ...]]:
    """One column for names that differ only by case, none that is named like a special one.

    Sorted, so that the choice is the same whatever order the columns came in.
    """
    taken = {name.lower() for name in SPECIAL_COLUMNS}
    chosen = [Column(entity.key, "TEXT")]
    taken.add(entity.key.lower())
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


# Rows


def to_rows(table: EntityTable, records: Iterable[msgspec.Raw], sync_time: str) -> list[SqlRow]:
    """Turn records into rows: every column, then ``sync_time``, ``valid_from``, ``json_response``.

    Raises:
        PageError: A record is no object, has no key, or is no UTF-8 text.
    """
    valid_from = next(
        (at for at, column in enumerate(table.columns) if column.name == "modifiedon"), None
    )
    rows = []
    for record in records:
        try:
            text = str(record, "utf-8")
        except UnicodeDecodeError as error:
            raise PageError(
                f"{table.name}: a record is not UTF-8 text ({error})", _REPORT
            ) from error
        try:
            values = msgspec.structs.astuple(table.decode(record))
        except (msgspec.MsgspecError, RecursionError):
            values = _decode_slowly(table, text)
        key = values[0]
        if not isinstance(key, str) or not key:
            raise PageError(
                f"{table.name}: a record has no {table.entity.key}, the key of the locked schema",
                "Was the table's key changed? Compare with: python -m dataverse_sync schema diff",
            )
        rows.append((*values, sync_time, None if valid_from is None else values[valid_from], text))
    return rows


def to_heads(table: EntityTable, records: Iterable[msgspec.Raw]) -> list[Head]:
    """The key and ``modifiedon`` of each record.

    Raises:
        PageError: As ``to_rows``.
    """
    heads = []
    for record in records:
        try:
            head = table.decode_head(record)
            heads.append((head.key, head.modifiedon))
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            (row,) = to_rows(table, [record], "")
            heads.append((row[0], row[VALID_FROM]))
    return heads


def _decode_slowly(table: EntityTable, text: str) -> tuple[Any, ...]:
    """The same values, from a record whose types are not those of the lock."""
    try:
        record = json.loads(text, parse_int=_fitting_int)
    except RecursionError as error:
        raise PageError(f"{table.name}: a record is nested too deep", _REPORT) from error
    except ValueError as error:
        raise PageError(f"{table.name}: a record is not JSON ({error})", _REPORT) from error
    if not isinstance(record, dict):
        raise PageError(f"{table.name}: a record is not an object", _REPORT)
    return tuple(_to_sql(record.get(column.name), column.type) for column in table.columns)


def _fitting_int(digits: str) -> int | str:
    """An integer that SQLite can hold, else its digits as text."""
    if len(digits) <= 20 and _INT64[0] <= int(digits) <= _INT64[1]:
        return int(digits)
    return digits


def _to_sql(value: Any, column_type: ColumnType) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # a lone surrogate is no UTF-8
    if isinstance(value, dict | list):
        return json.dumps(value, separators=(",", ":"))
    if column_type == "TEXT" and isinstance(value, bool):
        return "true" if value else "false"
    if column_type == "TEXT" and value is not None:
        return str(value)
    return value


# The statements of a table, compiled once: as fast as sqlite3 alone.


def compile_upsert(table: Table) -> str:
    """``INSERT ... ON CONFLICT DO UPDATE``, its values in the order of the table's columns."""
    insert = sqlite.insert(table).values({column.name: None for column in table.c})
    key = next(iter(table.primary_key))
    statement = insert.on_conflict_do_update(
        index_elements=[key],
        set_={column.name: insert.excluded[column.name] for column in table.c if column is not key},
    )
    return str(statement.compile(dialect=sqlite.dialect(paramstyle="qmark")))


def compile_insert(table: Table) -> str:
    """``INSERT ... ON CONFLICT DO NOTHING``, its values in the order of the table's columns."""
    insert = sqlite.insert(table).values({column.name: None for column in table.c})
    statement = insert.on_conflict_do_nothing(index_elements=list(table.primary_key))
    return str(statement.compile(dialect=sqlite.dialect(paramstyle="qmark")))


# The lock file


def dump_lock(lock: Lock) -> str:
    """The lock as JSON: sorted, one column a line, so that a diff reads well."""
    entities = []
    for name in sorted(lock):
        entity = lock[name]
        head = {
            "logical_name": entity.logical_name,
            "key": entity.key,
            "key_found": entity.key_found,
            "source": entity.source,
            "is_intersect": entity.is_intersect,
            "change_tracking": entity.change_tracking,
        }
        lines = [f"      {json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
        columns = [
            f"        {json.dumps(column.name)}: {json.dumps(_dump_column(column))}"
            for column in sorted(entity.columns, key=lambda column: column.name)
        ]
        entities.append(
            f"    {json.dumps(name)}: {{\n"
            + "\n".join(lines)
            + '\n      "columns": {\n'
            + ",\n".join(columns)
            + "\n      }\n    }"
        )
    body = ",\n".join(entities)
    return f'{{\n  "version": {LOCK_VERSION},\n  "entities": {{\n{body}\n  }}\n}}\n'


def _dump_column(column: Column) -> dict[str, Any]:
    about: dict[str, Any] = {"type": column.type}
    if column.targets:
        about["targets"] = list(column.targets)
    if column.gone:
        about["gone"] = True
    return about


def parse_lock(text: str, where: str) -> Lock:
    """The lock out of its text.

    Raises:
        ConfigError: It is damaged or newer: what is wrong, and in which entity.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{where}: damaged, not JSON ({error})",
            "Restore the file, or remove it: it is written again from the database.",
        ) from error
    try:
        version = document["version"]
        if isinstance(version, int) and version > LOCK_VERSION:
            raise ConfigError(
                f"{where}: made by a newer version of this program (lock version {version})",
                "Update dataverse_sync.",
            )
        if version != LOCK_VERSION:
            raise ValueError(f"version is {version!r}")
        return {name: _parse_entity(name, entry) for name, entry in document["entities"].items()}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise ConfigError(
            f"{where}: damaged, {what}",
            "Restore the file, or remove it: it is written again from the database.",
        ) from error


def _parse_entity(name: str, entry: Mapping[str, Any]) -> Entity:
    columns = []
    if not IDENTIFIER.fullmatch(name):
        raise ValueError(f"{name!r} is not an entity set name")
    try:
        for column, about in entry["columns"].items():
            if not IDENTIFIER.fullmatch(column):
                raise ValueError(f"{column!r} is not a column name")
            if about["type"] not in _SQL_TYPES:
                raise ValueError(f"column {column}: unknown type {about['type']!r}")
            targets = about.get("targets", [])
            if not all(isinstance(target, str) for target in targets):
                raise ValueError(f"column {column}: a target is no text")
            gone = bool(about.get("gone", False))
            columns.append(Column(column, about["type"], tuple(targets), gone))
        entity = Entity(
            name=name,
            key=entry["key"],
            columns=tuple(columns),
            source=entry["source"],
            logical_name=entry["logical_name"],
            is_intersect=bool(entry["is_intersect"]),
            change_tracking=bool(entry["change_tracking"]),
            key_found=str(entry["key_found"]),
        )
        if not any(column.name == entity.key for column in columns):
            raise ValueError(f"the key {entity.key!r} is not among the columns")
        if entity.source not in ("metadata", "sample"):
            raise ValueError(f"unknown source {entity.source!r}")
        if not isinstance(entity.logical_name, str | None):
            raise ValueError("the logical name is no text")
    except KeyError as error:
        raise ValueError(f"entity {name}: {error.args[0]!r} is missing") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"entity {name}: {error}") from error
    return entity


def load_lock(path: Path) -> Lock | None:
    """The lock file, or None where there is none.

    Raises:
        ConfigError: It cannot be read, is damaged or newer.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: cannot be read ({error})",
            "Check its permissions, or name another with --schema.",
        ) from error
    return parse_lock(text, str(path))


def save_lock(path: Path, lock: Lock) -> None:
    """Write the lock file whole or not at all.

    Raises:
        OSError: The folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.write(dump_lock(lock))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def find_misfits(lock: Lock, tables: Mapping[str, Mapping[str, tuple[str, bool]]]) -> Sequence[str]:
    """Where locked entities do not fit the tables that are there.

    Args:
        lock: The locked schema.
        tables: For each table of the database, its columns: declared type, and
            whether it is the key.

    Returns:
        One sentence for each entity that does not fit.
    """
    misfits = []
    for entity in lock.values():
        have = tables.get(entity.name)
        if have is None:
            continue
        wanted, _ = _choose_columns(entity)
        missing = [column.name for column in wanted if column.name not in have]
        missing += [name for name in SPECIAL_COLUMNS if name not in have]
        retyped = [
            column.name
            for column in wanted
            if column.name in have and have[column.name][0].upper() != column.type
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
