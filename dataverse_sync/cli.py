"""The command line: options, console, exit status. The only module that prints."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
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
from dataverse_sync.status import parse_age
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

    demo = _add(commands, "demo", _demo, "run two syncs of an emulated environment in demo/")
    demo.add_argument(
        "--config",
        type=Path,
        metavar="PATH",
        default=Path("entities_config.json"),
        help="the entity configuration (default: %(default)s)",
    )
    _add_workers(demo)
    _add_console(demo)

    emulator = _add(
        commands, "emulator", _emulator, "serve the emulator on loopback until interrupted"
    )
    emulator.add_argument(
        "--port", type=_port, default=0, metavar="N", help="the port (default: a free one)"
    )

    check = _add(commands, "check", _check, "see whether a sync would work; writes nothing")
    _add_places(check)
    _add_selection(check)
    _add_workers(check)
    _add_json(check)
    _add_console(check)

    status = _add(commands, "status", _status, "say what the database knows, table by table")
    _add_places(status)
    status.add_argument(
        "--max-age",
        type=_age,
        metavar="AGE",
        help="exit 1 when the last success of an entity is older, such as 26h",
    )
    _add_json(status)
    _add_console(status)

    verify = _add(
        commands, "verify", _verify, "compare the database with Dataverse, table by table"
    )
    _add_places(verify)
    _add_selection(verify)
    verify.add_argument(
        "--repair", action="store_true", help="fetch and remove exactly what differs"
    )
    _add_allow_deletes(verify)
    _add_workers(verify)
    _add_json(verify)
    _add_console(verify)

    schema = commands.add_parser(
        "schema", help="compare or accept the schema", description="Compare or accept the schema."
    )
    schemas = schema.add_subparsers(title="commands", metavar="COMMAND", required=True)
    diff = _add(schemas, "diff", _schema_diff, "show the locked schema against the live one")
    _add_places(diff)
    _add_selection(diff)
    _add_json(diff)
    _add_console(diff)
    accept = _add(schemas, "accept", _schema_accept, "lock the live schema, and fill new columns")
    accept.add_argument(
        "only", nargs="*", metavar="ENTITY", help="only these entity sets (default: all)"
    )
    accept.add_argument(
        "--drop", action="store_true", help="drop columns that are gone from Dataverse"
    )
    _add_places(accept)
    _add_console(accept)
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


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json", action="store_true", help="one JSON document on standard output, nothing else"
    )


def _age(text: str) -> timedelta:
    try:
        return parse_age(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port")
    return int(text)


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
    report = _run_and_show(
        config,
        entities,
        options,
        redactor,
        only=options.entity,
        full=options.full,
        allow_deletes=options.allow_deletes,
    )
    return OK if report.ok else FAILED


def _run_and_show(
    config: Config,
    entities: Sequence[EntityConfig],
    options: argparse.Namespace,
    redactor: Redactor,
    **choices: Any,
) -> SyncReport:
    """Run a sync and show it; ``choices`` are those of ``run_sync``."""
    display = _display(options)
    try:
        report = run_sync(config, entities, on_event=display.show, redactor=redactor, **choices)
    finally:
        display.close()
    _print_summary(report, options)
    return report


def _demo(options: argparse.Namespace, redactor: Redactor) -> int:
    from dataverse_sync.demo import run_demo

    _configure_logging(options, redactor)
    done = run_demo(
        options.config,
        options.workers,
        lambda config, entities, known: _run_and_show(config, entities, options, known),
        _tell(options),
    )
    return OK if done else FAILED


def _emulator(options: argparse.Namespace, _redactor: Redactor) -> int:
    from dataverse_sync.emulator import Emulator, demo_tables, fill_demo

    emulator = Emulator(demo_tables(), port=options.port)
    fill_demo(emulator)
    try:
        emulator.start()
    except OSError as error:
        raise ConfigError(
            f"port {options.port}: cannot be used ({error})", "Name another with --port."
        ) from error
    with emulator:
        for line in emulator.env_lines():
            print(line)
        print("# It serves until Ctrl-C.", file=sys.stderr, flush=True)
        sys.stdout.flush()
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            return OK
    return OK


def _check(options: argparse.Namespace, redactor: Redactor) -> int:
    from dataverse_sync import check

    config, entities = _load(options, redactor)
    findings = check.run_check(config, entities, options.entity, redactor)
    document = check.to_document(findings)
    _show(options, document, lambda: check.format_findings(findings))
    return OK if document["ok"] else FAILED


def _status(options: argparse.Namespace, redactor: Redactor) -> int:
    from dataverse_sync import status

    _configure_logging(options, redactor)
    max_age: timedelta | None = options.max_age
    path = Path(settings.find_db_path(settings.load_settings(options.env_file), options.db))
    configured = None
    if options.config.exists():
        configured = [entity.name for entity in settings.load_entities(options.config)]
    found = status.load_status(path, datetime.now(UTC), configured)
    if found is None:
        message = f"{path}: there is no database yet; the first sync makes it"
        _show(options, {"database": None, "entities": []}, lambda: [message])
        return OK if max_age is None else FAILED
    old = status.find_too_old(found, max_age) if max_age is not None else ()
    document = status.to_document(found)
    if max_age is not None:
        document["too_old"] = [entity.entity for entity in old]
    _show(options, document, lambda: status.format_status(found))
    if old:
        names = ", ".join(entity.entity for entity in old)
        print(f"error: no success within the time given: {names}", file=sys.stderr)
    never = max_age is not None and not found.entities
    return FAILED if old or never else OK


def _verify(options: argparse.Namespace, redactor: Redactor) -> int:
    from dataverse_sync import verify

    config, entities = _load(options, redactor)
    found = verify.run_verify(
        config,
        entities,
        only=options.entity,
        repair=options.repair,
        allow_deletes=options.allow_deletes,
        redactor=redactor,
    )
    _show(options, verify.to_document(found), lambda: verify.format_verification(found))
    return OK if found.ok else FAILED


def _schema_diff(options: argparse.Namespace, redactor: Redactor) -> int:
    from dataverse_sync import schema_drift

    config, entities = _load(options, redactor)
    live = schema_drift.get_drift(config, entities, options.entity, redactor)
    _show(options, schema_drift.to_document(live), lambda: schema_drift.format_drift(live))
    return FAILED if live.drift or live.failures else OK


def _schema_accept(options: argparse.Namespace, redactor: Redactor) -> int:
    from dataverse_sync import schema_drift

    config, entities = _load(options, redactor)
    failures = schema_drift.accept(
        config, entities, options.only, redactor, drop=options.drop, tell=_tell(options)
    )
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    return FAILED if failures else OK


def _tell(options: argparse.Namespace) -> Callable[[str], None]:
    write: Callable[[str], None] = print
    return (lambda _: None) if options.quiet else write


def _show(
    options: argparse.Namespace, document: dict[str, Any], lines: Callable[[], Sequence[str]]
) -> None:
    """One JSON document, or lines for a person."""
    if options.json:
        print(json.dumps(document, indent=2, ensure_ascii=True))
        return
    for line in lines():
        print(line)


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
