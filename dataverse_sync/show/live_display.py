"""Show a run on a terminal: a bar for each large entity, and one line about all of it.

Phases and finished entities scroll away above. Needs rich, which takes a while to import:
so this module is imported only where such a display is made.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dataverse_sync.model import EntityStarted, Event, PhaseStarted
from dataverse_sync.show.progress import EntityProgress, Tally, format_event

SHOWN_AFTER_S = 1.0  # what is read faster would only flash
MOST_BARS = 8
_OTHER_LINES = 4  # of the terminal's height: about all, about the rest, and room to breathe
_BAR_WIDTH = 24
_REDRAWS_A_SECOND = 4


class LiveDisplay:
    """Draws the bars again and again, from a thread of its own, until it is closed."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        # Names of entities are no markup, and no emoji.
        self._console = Console(highlight=False, markup=False, emoji=False)
        self._tally = Tally(clock)
        # Never held while something is printed, which waits for rich's own lock.
        self._lock = threading.Lock()
        self._live = Live(
            console=self._console,
            get_renderable=self._render,
            refresh_per_second=_REDRAWS_A_SECOND,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=sys.stderr.isatty(),  # a traceback of a thread, say
            vertical_overflow="crop",
        )
        self._changing: threading.Thread | None = None

    @property
    def is_possible(self) -> bool:  # the terminal lets lines be drawn again
        return self._console.is_interactive

    def show(self, event: Event) -> None:
        with self._lock:
            self._tally.add(event)
        if line := format_event(event):
            self.log_line(line)
        if isinstance(event, EntityStarted) and not self._live.is_started:
            self._change(self._live.start)
        elif isinstance(event, PhaseStarted) and self._live.is_started:
            self._change(self._live.stop)

    def log_line(self, line: str) -> None:
        """Print a line above the bars; from any thread."""
        self._console.print(line, soft_wrap=True)

    def close(self) -> None:
        """Remove the bars, and show the cursor again."""
        self._change(self._live.stop)

    def _change(self, work: Callable[[], None]) -> None:
        """Begin or end the drawing, in a thread of its own.

        Only the main thread is interrupted, and that would leave the terminal half changed.
        """
        if self._changing is not None:
            self._changing.join()
        self._changing = threading.Thread(target=work)
        self._changing.start()
        self._changing.join()

    def _render(self) -> RenderableType:
        most = max(1, min(MOST_BARS, self._console.height - _OTHER_LINES))
        with self._lock:
            if self._tally.elapsed_s < SHOWN_AFTER_S:
                return Group()
            readings, more = self._tally.find_largest(most, SHOWN_AFTER_S)
            about_all = str(self._tally)
        lines: list[RenderableType] = [_build_bars(readings)] if readings else []
        if more:
            lines.append(Text(f"  and {more} more"))
        return Group(*lines, Text(about_all, no_wrap=True, overflow="ellipsis"))


def _build_bars(readings: Sequence[EntityProgress]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, overflow="ellipsis")
    table.add_column(no_wrap=True, width=_BAR_WIDTH)
    table.add_column(no_wrap=True, justify="right")
    for reading in readings:
        bar = ProgressBar(total=reading.total, completed=reading.done, width=_BAR_WIDTH)
        table.add_row(Text(f"  {reading.entity}"), bar, Text(str(reading)))
    return table
