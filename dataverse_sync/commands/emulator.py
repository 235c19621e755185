"""``emulator``: serve the emulated environment of the demo on loopback until interrupted."""

from __future__ import annotations

import argparse
import sys
import threading

from dataverse_sync.commands.console import OK
from dataverse_sync.commands.options import Options, argument
from dataverse_sync.emulator import Emulator, demo_tables, fill_demo
from dataverse_sync.errors import ConfigError
from dataverse_sync.redaction import Redactor


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)
    parser.add_argument(
        "--port",
        type=argument(_parse_port),
        default=0,
        metavar="N",
        help="the port (default: a free one)",
    )


def run(options: Options, _redactor: Redactor) -> int:
    emulator = Emulator(demo_tables(), port=options.port)
    fill_demo(emulator)
    try:
        emulator.start()
    except OSError as error:
        raise ConfigError(
            f"port {options.port}: cannot be used ({error})", "Name another with --port."
        ) from error
    try:
        for line in emulator.env_lines():
            print(line, flush=True)
        print("# It serves until Ctrl-C.", file=sys.stderr, flush=True)
        stopped = threading.Event()
        while not stopped.wait(0.5):  # Windows cannot interrupt a wait without an end
            pass
    except KeyboardInterrupt:
        return OK
    finally:
        emulator.stop()
    return OK


def _parse_port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise ValueError(f"{text!r} is not a port, from 0 (any that is free) to 65535")
    return int(text)
