"""Show the progress of a command: bars on a terminal, lines in a pipe, nothing with ``-q``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from dataverse_sync import logs
from dataverse_sync.commands.options import Options
from dataverse_sync.model import Event
from dataverse_sync.show import progress


@contextmanager
def showing(options: Options) -> Iterator[Callable[[Event], None]]:
    """Show a run while it goes on: yields the function that takes its events."""
    display = choose_display(options)
    log_line = display.log_line if sys.stderr.isatty() else None
    try:
        with logs.diverted(log_line):
            yield display.show
    finally:
        display.close()


def choose_display(options: Options) -> progress.Display:
    """Bars on a terminal, lines in a pipe, nothing with ``-q``."""
    if options.quiet or options.json:
        return progress.QuietDisplay()
    if sys.stdout.isatty() and not options.no_progress:
        from dataverse_sync.show.live_display import LiveDisplay

        live = LiveDisplay()
        if live.is_possible:
            return live
    return progress.PlainDisplay(_write_line)


def _write_line(line: str) -> None:
    """Print and flush; a closed pipe is ignored, so that it never ends a sync."""
    with suppress(OSError):
        print(line, flush=True)
