"""Read the settings, set up the log, print the result: for every command.

A result is lines for a person (with ``-q`` the last alone if all is well), or with
``--json`` one document and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dataverse_sync.commands.options import Options
from dataverse_sync.config import (
    Config,
    build_config,
    find_db_path,
    load_entities,
    load_settings,
)
from dataverse_sync.errors import ConfigError, SyncError
from dataverse_sync.logs import configure_logging
from dataverse_sync.model import EntityConfig
from dataverse_sync.redaction import Redactor

OK, FAILED, USAGE = 0, 1, 2  # exit statuses

Tell = Callable[[str], None]


def load(options: Options, redactor: Redactor, **changes: Any) -> tuple[Config, list[EntityConfig]]:
    """Set up the log; load the settings and the entities, or raise the mistakes of both files.

    ``changes`` are other fields of ``Config``, such as ``workers``.
    """
    open_log(options, redactor)
    mistakes: list[ConfigError] = []
    try:
        values = load_settings(options.env_file)
        redactor.add(values.get("DATAVERSE_CLIENT_SECRET", ""))
        config = build_config(values, options.db, schema_path=options.schema, **changes)
    except ConfigError as error:
        mistakes.append(error)
    try:
        entities = load_entities(options.config)
    except ConfigError as error:
        mistakes.append(error)
    if mistakes:
        raise ConfigError("\n".join(str(mistake) for mistake in mistakes))
    return config, entities


def open_log(options: Options, redactor: Redactor) -> None:
    """Set up logging as ``-q``, ``-v`` and ``--log-file`` say."""
    configure_logging(-1 if options.quiet else options.verbose, options.log_file, redactor)


def find_database(options: Options) -> Path:
    """The database of a command that needs no credentials."""
    return Path(find_db_path(load_settings(options.env_file), options.db))


def choose_tell(options: Options) -> Tell:
    """A function that prints a line, unless ``-q`` was given."""
    return (lambda _: None) if options.quiet else print


def show(
    options: Options, document: dict[str, Any], lines: Callable[[], Sequence[str]], *, ok: bool
) -> None:
    """Print a result: a document for a program, or lines for a person.

    With ``-q`` the last line is enough if all is well (``ok``).
    """
    if options.json:
        print(json.dumps(document, indent=2))
        return
    made = lines()
    for line in made[-1:] if options.quiet and ok else made:
        print(line)


def describe_end(error: BaseException, redactor: Redactor) -> str:
    """Why a run ended. The message of an unexpected error is withheld: it may hold secrets."""
    if isinstance(error, SyncError):
        return redactor.redact(str(error))
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return f"unexpected error ({type(error).__name__}); the log of the run says where"
