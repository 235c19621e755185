"""Show a run while it goes on as plain lines, for a pipe, a log file, a scheduler; or not at all.

The live display for a terminal is in ``live_display``, which needs rich.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from dataverse_sync.model import EntityFinished, EntityStarted, Event, PhaseStarted
from dataverse_sync.show.tally import Tally

EVERY_S = 10.0  # between two plain lines about what is being read
LATER_EVERY_S = 60.0  # the same, once the reading has taken a minute
_NAMED = 3  # of the entities being read, in such a line


class Display(Protocol):
    """What a run's events are shown on."""

    @property
    def log_line(self) -> Callable[[str], None] | None:
        """What prints a line of the log on the same terminal; None where any line may go there."""

    def show(self, event: Event) -> None: ...

    def close(self) -> None: ...


class PlainDisplay:
    """One line a phase, one an entity, and one now and then while much is read."""

    log_line = None

    def __init__(
        self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write = write
        self._clock = clock
        self._tally = Tally(clock)
        self._spoke_at: float | None = None

    def show(self, event: Event) -> None:
        self._tally.note(event)
        match event:
            case PhaseStarted():
                self._write(format_phase(event))
            case EntityFinished():
                self._write(format_finished(event))
            case EntityStarted() if self._spoke_at is None:
                self._spoke_at = self._clock()
        self._speak_now_and_then()

    def _speak_now_and_then(self) -> None:
        every_s = EVERY_S if self._tally.elapsed_s <= LATER_EVERY_S else LATER_EVERY_S
        if self._spoke_at is None or self._clock() - self._spoke_at < every_s:
            return
        readings, more = self._tally.find_largest(_NAMED)
        if not readings:
            return
        self._spoke_at = self._clock()
        named = [f"{reading.entity} {reading}" for reading in readings]
        named += [f"{more} more"] if more else []
        self._write(f"  {self._tally}; reading {'; '.join(named)}")

    def close(self) -> None:
        """Nothing to put right: lines stay."""


class QuietDisplay:
    """Nothing until the end."""

    log_line = None

    def show(self, event: Event) -> None:
        """Say nothing."""

    def close(self) -> None:
        """Nothing to put right."""


def format_phase(event: PhaseStarted) -> str:
    return f"[{event.number}/6] {event.text}"


def format_finished(event: EntityFinished) -> str:
    report = event.report
    counts = report.counts
    changed = [
        f"{number:,} {word}"
        for number, word in (
            (counts.added, "added"),
            (counts.updated, "updated"),
            (counts.unchanged, "unchanged"),
            (counts.deleted, "deleted"),
        )
        if number
    ]
    if not changed and report.state == "completed":
        changed = ["nothing changed"]
    return f"  {report.name}: {', '.join([report.state, *changed])}"
