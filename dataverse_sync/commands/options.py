"""Options that several commands share, and the types of their arguments."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dataverse_sync.config import DEFAULT_DB, DEFAULT_SCHEMA, DEFAULT_WORKERS, MAX_PAGE_SIZE
from dataverse_sync.redaction import Redactor

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

T = TypeVar("T")

ENTITY_LIST = Path("entities_config.json")
PLACES = ("--env-file", "--config", "--schema", "--db")
CONSOLE = ("--log-file", "--verbose", "--quiet", "--no-progress")


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


def page_size(text: str) -> int:
    """Parse a number of records a page; or ``argparse.ArgumentTypeError``."""
    if (number := positive(text)) > MAX_PAGE_SIZE:
        raise argparse.ArgumentTypeError(f"{number} is more than {MAX_PAGE_SIZE}")
    return number


def positive(text: str) -> int:
    """Parse a whole number of 1 or more; or ``argparse.ArgumentTypeError``."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def _path(text: str, default: Path | None = None) -> dict[str, Any]:
    return {"type": Path, "metavar": "PATH", "default": default, "help": text}


def _flag(text: str) -> dict[str, Any]:
    return {"action": "store_true", "help": text}


_SHARED: Mapping[str, Mapping[str, Any]] = {
    "--env-file": _path("the file with the credentials (default: .env in the working folder)"),
    "--config": _path("the entity configuration (default: %(default)s)", ENTITY_LIST),
    "--schema": _path("the locked schema (default: %(default)s)", Path(DEFAULT_SCHEMA)),
    "--db": {
        "metavar": "PATH",
        "help": f"the SQLite file; wins over SQLITE_DB_PATH (default: {DEFAULT_DB})",
    },
    "--entity": {
        "action": "append",
        "default": [],
        "metavar": "NAME",
        "help": "only this entity set; repeatable (default: all)",
    },
    "--workers": {
        "type": positive,
        "default": DEFAULT_WORKERS,
        "metavar": "N",
        "help": "requests in flight at most (default: %(default)s)",
    },
    "--allow-deletes": _flag("remove records even where more than half of a table would go"),
    "--json": _flag("one JSON document on standard output, nothing else"),
    "--log-file": _path("also write the log there, as JSON lines, rotated"),
    "--verbose": {"action": "count", "default": 0, "help": "say more; -vv: everything"},
    "--quiet": _flag("one line when all is well"),
    "--no-progress": _flag("no progress bars"),
}
_SHORT = {"--verbose": "-v", "--quiet": "-q"}


def add_shared(parser: argparse.ArgumentParser, *names: str, **changes: Any) -> None:
    """Add shared options by their long names; ``changes`` differ from the other commands."""
    for name in names:
        short = [_SHORT[name]] if name in _SHORT else []
        parser.add_argument(*short, name, **{**_SHARED[name], **changes})


def add_command(commands: Commands, name: str, text: str) -> argparse.ArgumentParser:
    """Add a command with its line of help."""
    return commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")


def argument(parse: Callable[[str], T]) -> Callable[[str], T]:
    """The type of an argument whose ``ValueError`` is shown as it is."""

    def convert(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert
