"""Show a run while it goes on: plain lines, or one live display on a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from dataverse_sync.model import EntityFinished, EntityStarted, Event, PageStored, PhaseStarted

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

EVERY_S = 10.0  # between two plain lines of the same entity


class Display(Protocol):
    """What a run's events are shown on."""

    def show(self, event: Event) -> None: ...

    def close(self) -> None: ...


class PlainDisplay:
    """One line a phase, one an entity, and one now and then while a large one is read."""

    def __init__(
        self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write = write
        self._clock = clock
        self._records: dict[str, int] = {}
        self._spoke_at: dict[str, float] = {}

    def show(self, event: Event) -> None:
        match event:
            case PhaseStarted():
                self._write(format_phase(event))
            case EntityStarted():
                self._spoke_at[event.entity] = self._clock()
            case PageStored():
                self._records[event.entity] = self._records.get(event.entity, 0) + event.records
                now = self._clock()
                if now - self._spoke_at.get(event.entity, now) >= EVERY_S:
                    self._spoke_at[event.entity] = now
                    self._write(f"  {event.entity}: {self._records[event.entity]} read so far")
            case EntityFinished():
                self._write(format_finished(event))

    def close(self) -> None:
        """Nothing to put right: lines stay."""


class LiveDisplay:
    """A line for each entity being read, with rows and speed, on a terminal."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._console = Console(highlight=False, markup=False)
        self._progress: Progress = Progress(
            SpinnerColumn("line"),
            TextColumn("{task.description}", markup=False),
            TextColumn("{task.completed:.0f} rows"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[speed]}"),
            console=self._console,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._all: TaskID | None = None
        self._clock = clock
        self._began = clock()
        self._bytes = 0
        self._progress.start()

    def show(self, event: Event) -> None:
        match event:
            case PhaseStarted():
                self._progress.console.print(format_phase(event))
            case EntityStarted():
                pass
            case PageStored():
                self._stored(event)
            case EntityFinished():
                if (task := self._tasks.pop(event.report.name, None)) is not None:
                    self._progress.remove_task(task)
                self._progress.console.print(format_finished(event))

    def _stored(self, event: PageStored) -> None:
        if self._all is None:
            self._all = self._progress.add_task("all", total=None, speed="")
        if event.entity not in self._tasks:
            self._tasks[event.entity] = self._progress.add_task(event.entity, total=None, speed="")
        self._bytes += event.size
        seconds = max(self._clock() - self._began, 0.001)
        self._progress.update(self._tasks[event.entity], advance=event.records)
        self._progress.update(
            self._all,
            advance=event.records,
            speed=f"{self._bytes / seconds / 1e6:.1f} MB/s, {event.in_flight} in flight",
        )

    def close(self) -> None:
        self._progress.stop()


class QuietDisplay:
    """Nothing until the end."""

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
        f"{number} {word}"
        for number, word in (
            (counts.added, "added"),
            (counts.updated, "updated"),
            (counts.unchanged, "unchanged"),
            (counts.deleted, "deleted"),
        )
        if number
    ]
    return f"  {report.name}: {report.state}, {', '.join(changed) or 'nothing changed'}"
