"""``report``: write an HTML report of the last runs, from the database alone."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path

from dataverse_sync.commands.console import OK, choose_tell, find_database, open_log
from dataverse_sync.commands.options import CONSOLE, Options, add_shared
from dataverse_sync.redaction import Redactor
from dataverse_sync.show.report import write_report


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)
    parser.add_argument(
        "path",
        nargs="?",
        type=Path,
        metavar="PATH",
        default=Path("report.html"),
        help="the file to write (default: %(default)s)",
    )
    add_shared(parser, "--env-file", help="may name SQLITE_DB_PATH")
    add_shared(parser, "--db", *CONSOLE)


def run(options: Options, redactor: Redactor) -> int:
    open_log(options, redactor)
    write_report(find_database(options), options.path, datetime.now(UTC))
    choose_tell(options)(f"written: {options.path}")
    return OK
