"""The two files that ``init`` writes: ``.env`` and the entity configuration."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from dataverse_sync.errors import ConfigError, StorageError
from dataverse_sync.files import write_whole
from dataverse_sync.model import EntityConfig


def check_files(env_file: Path, config: Path, *, force: bool) -> None:
    """Raise a ``ConfigError`` if one of both files cannot be made, before anything is asked."""
    if env_file.absolute() == config.absolute():
        raise ConfigError(
            f"{config}: cannot be both files", "Name two files with --env-file and --config."
        )
    for path, option in ((env_file, "--env-file"), (config, "--config")):
        if path.is_dir():
            raise ConfigError(f"{path}: is a folder", f"Name a file with {option}.")
        if (path.exists() or path.is_symlink()) and not force:
            raise ConfigError(
                f"{path}: exists already",
                f"Keep it and name another with {option}, or overwrite it with --force.",
            )
        folder = path.absolute().parent
        if not folder.is_dir():
            raise ConfigError(f"{path}: there is no folder {folder}", "Make it first.")
        if not os.access(folder, os.W_OK):
            raise ConfigError(
                f"{path}: the folder cannot be written", f"Name a file elsewhere with {option}."
            )


def write_file(path: Path, text: str, mode: int = 0o666) -> None:
    """Write one of the files, whole or not at all; or StorageError."""
    try:
        write_whole(path, text, mode)
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be written ({error})", "Check the disk and the folder's permissions."
        ) from error


def format_env(settings: Mapping[str, str]) -> str:
    """The text of a ``.env`` that python-dotenv reads back as it was typed.

    The last value may end in a backslash, since no quote follows it. A control character or a
    lone surrogate is a ConfigError.
    """
    lines = ["# Written by python -m dataverse_sync init. Keep it to yourself."]
    for name, value in settings.items():
        if any(ord(char) < 32 or 0xD800 <= ord(char) < 0xE000 for char in value):
            raise ConfigError(
                f"{name} holds a character that a .env file cannot hold, such as a line break",
                "Copy the value again, without what stands around it.",
            )
        lines.append(f"{name}={_quote(value)}")
    return "\n".join(lines) + "\n"


def _quote(value: str) -> str:
    if re.fullmatch(r"[\w.~:/@%+=,-]*", value, re.ASCII):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def format_entities(entities: Sequence[EntityConfig]) -> str:
    """The text of an ``entities_config.json``: one entity a line."""
    entries = (
        {"name": entity.name, "filtered": entity.filtered, "description": entity.description}
        for entity in entities
    )
    lines = [f"    {json.dumps(entry, ensure_ascii=False)}" for entry in entries]
    return '{\n  "entities": [\n' + ",\n".join(lines) + "\n  ]\n}\n"
