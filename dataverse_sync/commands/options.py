"""Options that several commands share, and the types of their arguments."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from dataverse_sync.config import DEFAULT_DB, DEFAULT_SCHEMA, DEFAULT_WORKERS
from dataverse_sync.redaction import Redactor

ENTITY_LIST = Path("entities_config.json")

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

T = TypeVar("T")


class Options(argparse.Namespace):
    """Arguments of a command. A command that lacks a shared option has the value given here."""

    run: Callable[[Options, Redactor], int]
    env_file: Path | None = None
    config: Path = ENTITY_LIST  # the entity configuration
    schema: Path = Path(DEFAULT_SCHEMA)
    db: str | None = None
    log_file: Path | None = None
    verbose: int = 0
    quiet: bool = False
    json: bool = False


def add_command(commands: Commands, name: str, text: str) -> argparse.ArgumentParser:
    """Add a command with its line of help."""
    return commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add ``--env-file`` and ``--config``."""
    parser.add_argument(
        "--env-file",
        type=Path,
        metavar="PATH",
        help="the file with the credentials (default: .env in the working folder)",
    )
    add_entity_list(parser)


def add_entity_list(parser: argparse.ArgumentParser) -> None:
    """Add ``--config``."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="PATH",
        default=ENTITY_LIST,
        help="the entity configuration (default: %(default)s)",
    )


def add_places(parser: argparse.ArgumentParser) -> None:
    """Add ``--env-file``, ``--config``, ``--schema`` and ``--db``."""
    add_settings(parser)
    parser.add_argument(
        "--schema",
        type=Path,
        metavar="PATH",
        default=Path(DEFAULT_SCHEMA),
        help="the locked schema (default: %(default)s)",
    )
    add_db(parser)


def add_db(parser: argparse.ArgumentParser) -> None:
    """Add ``--db``."""
    parser.add_argument(
        "--db",
        metavar="PATH",
        help=f"the SQLite file; wins over SQLITE_DB_PATH (default: {DEFAULT_DB})",
    )


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Add ``--entity``."""
    parser.add_argument(
        "--entity",
        action="append",
        default=[],
        metavar="NAME",
        help="only this entity set; repeatable (default: all)",
    )


def add_workers(parser: argparse.ArgumentParser, default: int = DEFAULT_WORKERS) -> None:
    """Add ``--workers``."""
    parser.add_argument(
        "--workers",
        type=positive,
        default=default,
        metavar="N",
        help="requests in flight at most (default: %(default)s)",
    )


def add_allow_deletes(parser: argparse.ArgumentParser) -> None:
    """Add ``--allow-deletes``."""
    parser.add_argument(
        "--allow-deletes",
        action="store_true",
        help="remove records even where more than half of a table would go",
    )


def add_console(parser: argparse.ArgumentParser) -> None:
    """Add ``--log-file``, ``-v``, ``-q`` and ``--no-progress``."""
    parser.add_argument(
        "--log-file",
        type=Path,
        metavar="PATH",
        help="also write the log there, as JSON lines, rotated",
    )
    add_verbosity(parser)
    parser.add_argument("-q", "--quiet", action="store_true", help="one line when all is well")
    parser.add_argument("--no-progress", action="store_true", help="no progress bars")


def add_verbosity(parser: argparse.ArgumentParser) -> None:
    """Add ``-v``."""
    parser.add_argument(
        "-v", "--verbose", action="count", default=0, help="say more; -vv: everything"
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    parser.add_argument(
        "--json", action="store_true", help="one JSON document on standard output, nothing else"
    )


def argument(parse: Callable[[str], T]) -> Callable[[str], T]:
    """The type of an argument whose ``ValueError`` is shown as it is."""

    def convert(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert


def positive(text: str) -> int:
    """Parse a whole number of 1 or more.

    Raises:
        argparse.ArgumentTypeError: It is not one.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)
