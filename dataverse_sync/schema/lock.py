"""The schema lock: which columns each table has, as the file ``schema.json`` says it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

from dataverse_sync.errors import ConfigError
from dataverse_sync.model import IDENTIFIER, Column, ColumnType, Entity

LOCK_VERSION = 1
Lock = dict[str, Entity]  # entity set → what is locked


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
            if about["type"] not in get_args(ColumnType):
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
