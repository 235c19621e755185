"""The schema lock: which columns each table has, as ``schema.json`` says it; drift from it."""

from __future__ import annotations

import json
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

import msgspec

from dataverse_sync.errors import ConfigError
from dataverse_sync.files import write_whole
from dataverse_sync.model import IDENTIFIER, Column, ColumnType, Drift, Entity, Kind, Source

LOCK_VERSION = 1
SchemaLock = dict[str, Entity]  # entity set → what is locked

_FIELDS = ("logical_name", "key", "key_found", "source", "is_intersect", "change_tracking")


class _Column(msgspec.Struct, omit_defaults=True):
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
    kind: Kind = "standard"


class _Version(msgspec.Struct):
    version: int


class _Entities(msgspec.Struct):
    entities: dict[str, msgspec.Raw]


def dump_lock(lock: SchemaLock) -> str:
    """The lock as JSON: sorted, one column a line, so that a diff reads well."""
    entities = ",\n".join(_dump_entity(entity) for _, entity in sorted(lock.items()))
    return f'{{\n  "version": {LOCK_VERSION},\n  "entities": {{\n{entities}\n  }}\n}}\n'


def _dump_entity(entity: Entity) -> str:
    # A standard table is filed as it was before there were kinds.
    names = _FIELDS if entity.kind == "standard" else (*_FIELDS, "kind")
    fields = [f"      {json.dumps(name)}: {json.dumps(getattr(entity, name))}," for name in names]
    columns = []
    for column in sorted(entity.columns, key=attrgetter("name")):
        about = msgspec.to_builtins(_Column(column.type, column.targets, column.gone))
        columns.append(f"        {json.dumps(column.name)}: {json.dumps(about)}")
    head, body = "\n".join(fields), ",\n".join(columns)
    return (
        f'    {json.dumps(entity.name)}: {{\n{head}\n      "columns": {{\n{body}\n      }}\n    }}'
    )


def parse_lock(text: str, where: str) -> SchemaLock:
    """The lock out of its text; a ConfigError says what is wrong, and in which entity."""
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
    columns = tuple(
        Column(column, about.type, about.targets, about.gone)
        for column, about in filed.columns.items()
    )
    told = {field: getattr(filed, field) for field in (*_FIELDS, "kind")}
    return Entity(name, columns=columns, **told)


def load_lock(path: Path) -> SchemaLock | None:
    """The lock file, or None if there is none."""
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
    """Write the lock file whole or not at all; raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, dump_lock(lock))


def diff_entity(locked: Entity, live: Entity) -> list[Drift]:
    """The differences in columns, their types and the key."""
    was = {column.name: column.type for column in locked.columns if not column.gone}
    now = {column.name: column.type for column in live.columns}
    added = [
        Drift(locked.name, "column_added", name, None, now[name]) for name in now if name not in was
    ]
    removed = [
        Drift(locked.name, "column_removed", name, was[name], None)
        for name in was
        if name not in now
    ]
    # A sample shows null as TEXT: what it says of types proves nothing. What was guessed from
    # one is wrong where metadata says otherwise.
    is_proven = live.source == "metadata"
    retyped = [
        Drift(locked.name, "type_changed", name, was[name], now[name])
        for name in was
        if name in now and was[name] != now[name] and is_proven
    ]
    found = [*added, *removed, *retyped]
    # A key that was guessed wrong merges records: nothing else shows it.
    if locked.key != live.key and is_proven:
        found.append(Drift(locked.name, "type_changed", live.key, "TEXT", "TEXT"))
    return found


def accept_entity(locked: Entity, live: Entity, drop: bool) -> Entity:
    """The live schema; columns that Dataverse no longer has are kept unless ``drop``."""
    if drop:
        return live
    have = {column.name for column in live.columns}
    gone = [replace(column, gone=True) for column in locked.columns if column.name not in have]
    return replace(live, columns=(*live.columns, *gone))
