"""The command line: the parser made from ``commands/``, and the exit status.

Only the module of the command that is run is imported: the others take time.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Collection, Sequence
from importlib import import_module

from dataverse_sync import streams
from dataverse_sync.commands.console import FAILED, USAGE, describe_end
from dataverse_sync.commands.options import Options, add_command
from dataverse_sync.config import list_proxies
from dataverse_sync.errors import (
    AuthError,
    ConfigError,
    EntityError,
    LockedError,
    StorageError,
    SyncError,
    UnreachableError,
)
from dataverse_sync.interrupts import handle_stops
from dataverse_sync.redaction import Redactor
from dataverse_sync.version import __version__

COMMANDS = {  # each a module of commands/, with add_options(parser)
    "sync": "copy what changed since the last run",
    "check": "see whether a sync would work; writes nothing",
    "status": "show what the database knows, table by table",
    "verify": "compare the database with Dataverse, table by table",
    "schema": "compare or accept the schema",
    "report": "write an HTML report of the last runs",
    "labels": "fetch the labels of choices, and make the labelled views",
    "export": "write every table as a Parquet, CSV or Excel file",
    "init": "ask, sign in, pick tables; write .env and the configuration",
    "schedule": "print a task, a cron line or a timer for this job",
    "demo": "run two syncs of an emulated environment in demo/",
    "emulator": "serve the emulator on loopback until interrupted",
}
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
    return run_command(parse_arguments(sys.argv[1:] if argv is None else argv))


def parse_arguments(argv: Sequence[str]) -> Options:
    """Import the command that is named, and read its options."""
    arguments = list(argv)
    streams.open_missing()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a console that lacks a character shows another
            stream.reconfigure(errors="replace")
    if not arguments or (
        arguments[0].startswith("-") and arguments[0] not in ("-h", "--help", "--version")
    ):
        arguments.insert(0, "sync")
    return build_parser(arguments[:1]).parse_args(arguments, Options())


def run_command(options: Options) -> int:
    """Run the command that was read; returns its exit status."""
    redactor = Redactor()
    redactor.add_proxies(list_proxies())
    if threading.current_thread() is threading.main_thread():
        handle_stops(signal.default_int_handler)
    return guard(lambda: options.run(options, redactor), redactor, as_json=options.json)


def build_parser(complete: Collection[str] = tuple(COMMANDS)) -> argparse.ArgumentParser:
    """A parser whose result has the command's handler in ``run``.

    Args:
        complete: The commands that get their options; others get a line of help alone.
    """
    parser = argparse.ArgumentParser(
        prog="dataverse_sync",
        description="Keep a true, complete, queryable SQLite copy of a Microsoft Dataverse "
        "environment.",
        epilog="Without a command: sync. Every command has its own --help.",
    )
    parser.add_argument("--version", action="version", version=f"dataverse_sync {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, text in COMMANDS.items():
        command = add_command(commands, name, text)
        if name in complete:
            import_module(f"dataverse_sync.commands.{name}").add_options(command)
    return parser


def guard(work: Callable[[], int], redactor: Redactor, *, as_json: bool = False) -> int:
    """Run a command, and turn an error into a message, a JSON document too, and an exit status."""
    try:
        return work()
    except (Exception, KeyboardInterrupt) as error:
        reason = describe_end(error, redactor)
        status = FAILED
        if isinstance(error, SyncError):
            print(f"error: {reason}", file=sys.stderr)
            status = next(code for kind, code in EXIT_STATUSES.items() if isinstance(error, kind))
        elif isinstance(error, KeyboardInterrupt):
            print(
                "interrupted; what was committed is kept, and the next run goes on from there",
                file=sys.stderr,
            )
        else:
            # Its message may hold what was being sent: logging takes the secrets out of it.
            log.critical("unexpected error; please report it", exc_info=True)
    if as_json:
        print(json.dumps({"ok": False, "error": reason}, indent=2))
    return status


def entry_point() -> None:
    """Run the command of ``sys.argv``, and end the process with its status."""
    streams.ignore_closed_pipes()
    options = parse_arguments(sys.argv[1:])
    gc.freeze()
    gc.enable()
    # Rows are tuples, and never garbage: looking for some after every 700 of them takes 8 % of the
    # CPU of a first sync.
    gc.set_threshold(10_000, 10, 10)
    status = run_command(options)
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            status = status or FAILED
    os._exit(status)  # Python would wait for the workers of an interrupted run, which wait to read
