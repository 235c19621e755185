"""The commands and their options: what ``--help`` says, and what the arguments mean."""

from __future__ import annotations

import argparse
from datetime import time, timedelta
from pathlib import Path
from typing import Any

from dataverse_sync import config as settings
from dataverse_sync.version import __version__


def build_parser() -> argparse.ArgumentParser:
    """A parser whose result names its command in ``command``."""
    parser = argparse.ArgumentParser(
        prog="dataverse_sync",
        description="Keep a true, complete, queryable SQLite copy of a Microsoft Dataverse "
        "environment.",
        epilog="Without a command: sync. Every command has its own --help.",
    )
    parser.add_argument("--version", action="version", version=f"dataverse_sync {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (
        _add_sync,
        _add_check,
        _add_status,
        _add_verify,
        _add_schema,
        _add_report,
        _add_labels,
        _add_init,
        _add_schedule,
        _add_demo,
        _add_emulator,
    ):
        add(commands)
    return parser


# Commands


def _add_sync(commands: Any) -> None:
    sync = _add(commands, "sync", "copy what changed since the last run")
    _add_places(sync)
    add_selection(sync)
    sync.add_argument(
        "--full", action="store_true", help="ignore the bookmarks: read everything again"
    )
    add_workers(sync)
    sync.add_argument(
        "--segments",
        type=positive,
        metavar="N",
        help="ranges that one large table is read in at once, at most; 1: one chain of pages",
    )
    _add_allow_deletes(sync)
    sync.add_argument(
        "--report", type=Path, metavar="PATH", help="write the HTML report after the run"
    )
    sync.add_argument(
        "--notify", metavar="URL", help="post the run's summary as JSON there when it failed"
    )
    sync.add_argument(
        "--notify-always",
        action="store_true",
        help="post it after every run, not only a failed one",
    )
    _add_console(sync)


def _add_check(commands: Any) -> None:
    check = _add(commands, "check", "see whether a sync would work; writes nothing")
    _add_places(check)
    add_selection(check)
    add_workers(check)
    _add_json(check)
    _add_console(check)


def _add_status(commands: Any) -> None:
    status = _add(commands, "status", "say what the database knows, table by table")
    _add_places(status)
    status.add_argument(
        "--max-age",
        type=_age,
        metavar="AGE",
        help="exit 1 when the last success of an entity is older, such as 26h",
    )
    _add_json(status)
    _add_console(status)


def _add_verify(commands: Any) -> None:
    verify = _add(commands, "verify", "compare the database with Dataverse, table by table")
    _add_places(verify)
    add_selection(verify)
    verify.add_argument(
        "--repair", action="store_true", help="fetch and remove exactly what differs"
    )
    _add_allow_deletes(verify)
    add_workers(verify)
    _add_json(verify)
    _add_console(verify)


def _add_schema(commands: Any) -> None:
    schema = commands.add_parser(
        "schema", help="compare or accept the schema", description="Compare or accept the schema."
    )
    schemas = schema.add_subparsers(title="commands", metavar="COMMAND", required=True)
    diff = _add(schemas, "schema diff", "show the locked schema against the live one")
    _add_places(diff)
    add_selection(diff)
    _add_json(diff)
    _add_console(diff)
    accept = _add(schemas, "schema accept", "lock the live schema, and fill new columns")
    accept.add_argument(
        "only", nargs="*", metavar="ENTITY", help="only these entity sets (default: all)"
    )
    accept.add_argument(
        "--drop", action="store_true", help="drop columns that are gone from Dataverse"
    )
    _add_places(accept)
    _add_console(accept)


def _add_report(commands: Any) -> None:
    report = _add(commands, "report", "write an HTML report of the last runs")
    report.add_argument(
        "path",
        nargs="?",
        type=Path,
        metavar="PATH",
        default=Path("report.html"),
        help="the file to write (default: %(default)s)",
    )
    report.add_argument("--env-file", type=Path, metavar="PATH", help="may name SQLITE_DB_PATH")
    _add_db(report)
    _add_console(report)


def _add_labels(commands: Any) -> None:
    labels = _add(commands, "labels", "fetch the labels of choices, and make the labelled views")
    _add_places(labels)
    add_selection(labels)
    labels.add_argument(
        "--language",
        type=positive,
        metavar="N",
        help="the language that the views show, such as 1033 (default: the app user's)",
    )
    add_workers(labels)
    _add_console(labels)


def _add_init(commands: Any) -> None:
    init = _add(commands, "init", "ask, sign in, pick tables; write .env and the configuration")
    init.add_argument("--url", default="", metavar="URL", help="the environment's address")
    init.add_argument("--client-id", default="", metavar="ID", help="the app registration")
    init.add_argument(
        "--client-secret-stdin",
        action="store_true",
        help="read the secret from standard input (else DATAVERSE_CLIENT_SECRET, else it is asked)",
    )
    init.add_argument(
        "--entities",
        nargs="+",
        default=[],
        metavar="NAME",
        help="tables, or patterns such as vin_*",
    )
    init.add_argument("--custom", action="store_true", help="all custom tables")
    init.add_argument(
        "--env-file",
        type=Path,
        metavar="PATH",
        default=Path(".env"),
        help="the file to write (default: %(default)s)",
    )
    init.add_argument(
        "--config",
        type=Path,
        metavar="PATH",
        default=Path("entities_config.json"),
        help="the entity configuration to write (default: %(default)s)",
    )
    init.add_argument("--force", action="store_true", help="write over files that are there")
    init.add_argument("--yes", action="store_true", help="take what is proposed")
    add_verbosity(init)


def _add_schedule(commands: Any) -> None:
    schedule = _add(commands, "schedule", "print a task, a cron line or a timer for this job")
    when = schedule.add_mutually_exclusive_group(required=True)
    when.add_argument("--every", type=_every, metavar="1h", help="run again and again")
    when.add_argument("--daily", type=_daily, metavar="02:00", help="run once a day at this time")
    schedule.add_argument(
        "--format",
        choices=("task", "cron", "systemd"),
        default="task",
        help="a Windows Task Scheduler task, a cron line or a systemd timer (default: %(default)s)",
    )
    _add_places(schedule)
    schedule.add_argument(
        "--log-file", type=Path, metavar="PATH", help="where the job logs (default: sync.log)"
    )


def _add_demo(commands: Any) -> None:
    demo = _add(commands, "demo", "run two syncs of an emulated environment in demo/")
    demo.add_argument(
        "--config",
        type=Path,
        metavar="PATH",
        default=Path("entities_config.json"),
        help="the entity configuration (default: %(default)s)",
    )
    add_workers(demo)
    _add_console(demo)


def _add_emulator(commands: Any) -> None:
    emulator = _add(commands, "emulator", "serve the emulator on loopback until interrupted")
    emulator.add_argument(
        "--port", type=_port, default=0, metavar="N", help="the port (default: a free one)"
    )


# Options that several commands have


def _add(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name.rsplit(maxsplit=1)[-1], help=text, description=f"{text[0].upper()}{text[1:]}."
    )
    parser.set_defaults(command=name)
    return parser


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Where the credentials and the entity configuration are."""
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


def add_verbosity(parser: argparse.ArgumentParser) -> None:
    """How much is said on the console."""
    parser.add_argument(
        "-v", "--verbose", action="count", default=0, help="say more; -vv: everything"
    )


def _add_places(parser: argparse.ArgumentParser) -> None:
    add_settings(parser)
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


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Which entity sets."""
    parser.add_argument(
        "--entity",
        action="append",
        default=[],
        metavar="NAME",
        help="only this entity set; repeatable (default: all)",
    )


def add_workers(parser: argparse.ArgumentParser, default: int = settings.DEFAULT_WORKERS) -> None:
    """How many requests at once."""
    parser.add_argument(
        "--workers",
        type=positive,
        default=default,
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
    add_verbosity(parser)
    parser.add_argument("-q", "--quiet", action="store_true", help="one line when all is well")
    parser.add_argument("--no-progress", action="store_true", help="no progress bars")


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json", action="store_true", help="one JSON document on standard output, nothing else"
    )


def _age(text: str) -> timedelta:
    from dataverse_sync.commands.status import parse_age

    try:
        return parse_age(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _every(text: str) -> timedelta:
    from dataverse_sync.commands.schedule import parse_every

    try:
        return parse_every(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _daily(text: str) -> time:
    from dataverse_sync.commands.schedule import parse_daily

    try:
        return parse_daily(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a port, from 0 (any that is free) to 65535"
        )
    return int(text)


def positive(text: str) -> int:
    """A whole number of 1 or more.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return number
