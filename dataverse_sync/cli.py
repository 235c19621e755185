"""The command line: options, console, exit status. The only module that prints."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from dataverse_sync import config as settings
from dataverse_sync import console, progress, summary
from dataverse_sync.config import Config
from dataverse_sync.errors import (
    AuthError,
    ConfigError,
    EntityError,
    LockedError,
    StorageError,
    SyncError,
    UnreachableError,
)
from dataverse_sync.model import EntityConfig, SyncReport
from dataverse_sync.redaction import Redactor
from dataverse_sync.sync import run_sync
from dataverse_sync.version import __version__

OK, FAILED, USAGE = 0, 1, 2
EXIT_STATUSES: dict[type[SyncError], int] = {
    ConfigError: USAGE,
    AuthError: 3,
    LockedError: 4,
    StorageError: FAILED,
    UnreachableError: FAILED,
    EntityError: FAILED,
}

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a console that lacks a character shows another
            stream.reconfigure(errors="replace")
    if not arguments or (
        arguments[0].startswith("-") and arguments[0] not in ("-h", "--help", "--version")
    ):
        arguments.insert(0, "sync")
    options = build_parser().parse_args(arguments)
    redactor = Redactor()
    _listen_to_signals()
    try:
        status: int = options.run(options, redactor)
    except SyncError as error:
        print(f"error: {redactor.redact(str(error))}", file=sys.stderr)
        status = next(code for kind, code in EXIT_STATUSES.items() if isinstance(error, kind))
    except KeyboardInterrupt:
        print(
            "interrupted; what was committed is kept, and the next run goes on from there",
            file=sys.stderr,
        )
        status = FAILED
    return status


def entry_point() -> None:
    """The console script: end with the status, even while a worker waits for the service."""
    status = main()
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            status = status or FAILED
    if any(thread.name.startswith("dataverse") for thread in threading.enumerate()):
        os._exit(status)
    sys.exit(status)


def _listen_to_signals() -> None:
    """Let a stop by the system end a run as Ctrl-C does."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGBREAK"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), interrupt)


# Options


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dataverse_sync",
        description="Keep a true, complete, queryable SQLite copy of a Microsoft Dataverse "
        "environment.",
        epilog="Without a command: sync. Every command has its own --help.",
    )
    parser.add_argument("--version", action="version", version=f"dataverse_sync {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    sync = _add(commands, "sync", _sync, "copy what changed since the last run")
    _add_places(sync)
    _add_selection(sync)
    sync.add_argument(
        "--full", action="store_true", help="ignore the bookmarks: read everything again"
    )
    _add_workers(sync)
    sync.add_argument(
        "--segments",
        type=_positive,
        metavar="N",
        help="ranges that one large table is read in at once, at most; 1: one chain of pages",
    )
    _add_allow_deletes(sync)
    _add_console(sync)
    return parser


def _add(
    commands: Any, name: str, run: Callable[[argparse.Namespace, Redactor], int], text: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]}."
    )
    parser.set_defaults(run=run)
    return parser


def _add_places(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--env-file",
        type=Path,
        metavar="PATH",
        help="the file with the credentials (default: .env in the working folder)",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="PATH",
        default=Path("entities_config.json"),
        help="the entity configuration (default: %(default)s)",
    )
    parser.add_argument(
        "--schema",
        type=Path,
        metavar="PATH",
        default=Path(settings.DEFAULT_SCHEMA),
        help="the locked schema (default: %(default)s)",
    )
    _add_db(parser)


def _add_db(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--db",
        metavar="PATH",
        help=f"the SQLite file; wins over SQLITE_DB_PATH (default: {settings.DEFAULT_DB})",
    )


def _add_selection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--entity",
        action="append",
        default=[],
        metavar="NAME",
        help="only this entity set; repeatable (default: all)",
    )


def _add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers",
        type=_positive,
        default=settings.DEFAULT_WORKERS,
        metavar="N",
        help="requests in flight at most (default: %(default)s)",
    )


def _add_allow_deletes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow-deletes",
        action="store_true",
        help="remove records even where more than half of a table would go",
    )


def _add_console(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--log-file",
        type=Path,
        metavar="PATH",
        help="also write the log there, as JSON lines, rotated",
    )
    parser.add_argument(
        "-v", "--verbose", action="count", default=0, help="say more; -vv: everything"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="one line when all is well")
    parser.add_argument("--no-progress", action="store_true", help="no progress bars")


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return number


def _load(options: argparse.Namespace, redactor: Redactor) -> tuple[Config, list[EntityConfig]]:
    """The settings and the entities, with the mistakes of both told at once."""
    _configure_logging(options, redactor)
    mistakes: list[ConfigError] = []
    config: Config | None = None
    entities: list[EntityConfig] = []
    try:
        values = settings.load_settings(options.env_file)
        redactor.add(values.get("DATAVERSE_CLIENT_SECRET", ""))
        config = settings.build_config(
            values,
            options.db,
            schema_path=options.schema,
            workers=getattr(options, "workers", settings.DEFAULT_WORKERS),
        )
    except ConfigError as error:
        mistakes.append(error)
    try:
        entities = settings.load_entities(options.config)
    except ConfigError as error:
        mistakes.append(error)
    if mistakes or config is None:
        raise ConfigError("\n".join(str(mistake) for mistake in mistakes))
    return config, entities


def _configure_logging(options: argparse.Namespace, redactor: Redactor) -> None:
    verbosity = -1 if getattr(options, "quiet", False) else getattr(options, "verbose", 0)
    console.configure_logging(verbosity, getattr(options, "log_file", None), redactor)


# Commands


def _sync(options: argparse.Namespace, redactor: Redactor) -> int:
    config, entities = _load(options, redactor)
    return _run_and_show(config, entities, options, redactor)


def _run_and_show(
    config: Config, entities: list[EntityConfig], options: argparse.Namespace, redactor: Redactor
) -> int:
    display = _display(options)
    try:
        report = run_sync(
            config,
            entities,
            only=options.entity,
            full=options.full,
            allow_deletes=options.allow_deletes,
            on_event=display.show,
            redactor=redactor,
        )
    finally:
        display.close()
    _print_summary(report, options)
    return OK if report.ok else FAILED


def _display(options: argparse.Namespace) -> progress.Display:
    if options.quiet:
        return progress.QuietDisplay()
    if sys.stdout.isatty() and not options.no_progress:
        return progress.LiveDisplay()
    return progress.PlainDisplay(print)


def _print_summary(report: SyncReport, options: argparse.Namespace) -> None:
    if options.quiet and report.ok:
        print(summary.format_result(report))
        return
    print()
    for line in summary.format_summary(report):
        print(line)
