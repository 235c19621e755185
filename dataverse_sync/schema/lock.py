"""The schema lock: which columns each table has, as the file ``schema.json`` says it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from dataverse_sync.errors import ConfigError
from dataverse_sync.files import write_whole
from dataverse_sync.model import IDENTIFIER, Column, ColumnType, Entity, Source

LOCK_VERSION = 1
SchemaLock = dict[str, Entity]  # entity set → what is locked

_FIELDS = ("logical_name", "key", "key_found", "source", "is_intersect", "change_tracking")


class _Column(msgspec.Struct):
    type: ColumnType
    targets: tuple[str, ...] = ()
    gone: bool = False


class _Entity(msgspec.Struct):
    logical_name: str | None
    key: str
    key_found: str
    source: Source
    is_intersect: bool
    change_tracking: bool
    columns: dict[str, _Column]


class _Version(msgspec.Struct):
    version: int


class _Entities(msgspec.Struct):
    entities: dict[str, msgspec.Raw]


def dump_lock(lock: SchemaLock) -> str:
    """The lock as JSON: sorted, one column a line, so that a diff reads well."""
    entities = []
    for name, entity in sorted(lock.items()):
        fields = [
            f"      {json.dumps(field)}: {json.dumps(getattr(entity, field))}," for field in _FIELDS
        ]
        columns = [
            f"        {json.dumps(column.name)}: {json.dumps(_dump_column(column))}"
            for column in sorted(entity.columns, key=lambda column: column.name)
        ]
        entities.append(
            f"    {json.dumps(name)}: {{\n"
            + "\n".join(fields)
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


def parse_lock(text: str, where: str) -> SchemaLock:
    """The lock out of its text.

    Raises:
        ConfigError: It is damaged or newer: what is wrong, and in which entity.
    """
    try:
        version = msgspec.json.decode(text, type=_Version).version
        if version > LOCK_VERSION:
            raise ConfigError(
                f"{where}: made by a newer version of this program (lock version {version})",
                "Update dataverse_sync.",
            )
        if version != LOCK_VERSION:
            raise ValueError(f"version is {version}")
        entities = msgspec.json.decode(text, type=_Entities).entities
        return {name: _parse_entity(name, entry) for name, entry in entities.items()}
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise ConfigError(
            f"{where}: damaged, {error}",
            "Restore the file, or remove it: it is written again from the database.",
        ) from error


def _parse_entity(name: str, text: msgspec.Raw) -> Entity:
    if not IDENTIFIER.fullmatch(name):
        raise ValueError(f"{name!r} is not an entity set name")
    try:
        filed = msgspec.json.decode(text, type=_Entity)
    except msgspec.DecodeError as error:
        raise ValueError(f"entity {name}: {error}") from error
    for column in filed.columns:
        if not IDENTIFIER.fullmatch(column):
            raise ValueError(f"entity {name}: {column!r} is not a column name")
    if filed.key not in filed.columns:
        raise ValueError(f"entity {name}: the key {filed.key!r} is not among the columns")
    return Entity(
        name=name,
        key=filed.key,
        columns=tuple(
            Column(column, about.type, about.targets, about.gone)
            for column, about in filed.columns.items()
        ),
        source=filed.source,
        logical_name=filed.logical_name,
        is_intersect=filed.is_intersect,
        change_tracking=filed.change_tracking,
        key_found=filed.key_found,
    )


def load_lock(path: Path) -> SchemaLock | None:
    """The lock file, or None if there is none.

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


def save_lock(path: Path, lock: SchemaLock) -> None:
    """Write the lock file whole or not at all.

    Raises:
        OSError: The folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, dump_lock(lock))
