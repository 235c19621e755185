"""``init``: ask for the settings, sign in, pick tables; write ``.env`` and the configuration.

What was given is not asked for; if nobody can be asked, what is missing is said at once.
Nothing is written before everything is known, and no file is overwritten without ``--force``.
"""

from __future__ import annotations

import argparse
import getpass
import sys
from pathlib import Path

from dataverse_sync.commands.console import FAILED, OK, open_log
from dataverse_sync.commands.init.conversation import InitOptions, User, run_init
from dataverse_sync.commands.options import Options, add_shared
from dataverse_sync.config import find_client_secret
from dataverse_sync.redaction import Redactor


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)
    parser.add_argument("--url", default="", metavar="URL", help="the environment's address")
    parser.add_argument("--client-id", default="", metavar="ID", help="the app registration")
    parser.add_argument(
        "--client-secret-stdin",
        action="store_true",
        help="read the secret from standard input (else DATAVERSE_CLIENT_SECRET, else it is asked)",
    )
    parser.add_argument(
        "--entities",
        nargs="+",
        default=[],
        metavar="NAME",
        help="tables, or patterns such as vin_*",
    )
    parser.add_argument("--custom", action="store_true", help="all custom tables")
    add_shared(
        parser, "--env-file", default=Path(".env"), help="the file to write (default: %(default)s)"
    )
    add_shared(parser, "--config", help="the entity configuration to write (default: %(default)s)")
    parser.add_argument("--force", action="store_true", help="overwrite files that exist")
    parser.add_argument("--yes", action="store_true", help="take what is proposed")
    add_shared(parser, "--verbose")


def run(options: Options, redactor: Redactor) -> int:
    open_log(options, redactor)
    from_stdin = options.client_secret_stdin
    given = InitOptions(
        url=options.url,
        client_id=options.client_id,
        client_secret=sys.stdin.readline().strip() if from_stdin else find_client_secret(),
        entities=tuple(options.entities),
        custom=options.custom,
        env_file=Path(options.env_file or ".env"),
        config=options.config,
        force=options.force,
        yes=options.yes,
        interactive=sys.stdin.isatty() and not from_stdin,
    )
    return OK if run_init(given, User(input, getpass.getpass, print), redactor) else FAILED
