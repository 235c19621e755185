"""Show a run while it goes on: what its events add up to, and plain lines about it.

Plain lines are for a pipe, a log file, a scheduler; the bars for a terminal are in
``live_display``, which needs rich. What is expected is an estimate (a count that the
service made up to a day ago), so it is shown only until it is exceeded.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Protocol

from dataverse_sync.model import (
    EntityExported,
    EntityFinished,
    EntityStarted,
    EntityVerified,
    Event,
    PageStored,
    PhaseStarted,
    ReadExpected,
    StillWaiting,
)
from dataverse_sync.show.text import format_clock

RATE_S = 10.0  # speeds are those of the last ten seconds
EVERY_S = 10.0  # between two plain lines about what is being read
LATER_EVERY_S = 60.0  # the same, once the reading has taken a minute
_CHANGES = ("added", "updated", "unchanged", "deleted")
_NAMED = 3  # of the entities being read, in such a line


class Display(Protocol):
    """Shows the events of a run."""

    @property
    def log_line(self) -> Callable[[str], None] | None:
        """Prints a line of the log on the same terminal; None if any line may go there."""

    def show(self, event: Event) -> None: ...

    def close(self) -> None: ...


# What the events add up to


@dataclass(frozen=True, slots=True)
class EntityProgress:
    """How far the read of one entity is: of its records, or of its keys alone."""

    entity: str
    done: int
    expected: int | None
    keys_only: bool

    @property
    def total(self) -> int | None:
        """The records expected, as long as not more have come."""
        return self.expected if self.expected and self.expected >= self.done else None

    @property
    def size(self) -> int:
        return max(self.done, self.expected or 0)

    def __str__(self) -> str:
        kind = "keys" if self.keys_only else "rows"
        about = f" of about {self.total:,}" if self.total else ""
        return f"{self.done:,}{about} {kind}"


@dataclass(slots=True)
class Tally:
    """Counts of a run so far: entities, rows, speeds, and what is being read."""

    clock: Callable[[], float]  # seconds that only go forward
    rows: int = 0
    in_flight: int = 0
    waited_s: float = 0.0
    _began_at: float = field(init=False)
    _started: set[str] = field(default_factory=set)
    _done: set[str] = field(default_factory=set)
    _expected: dict[str, ReadExpected] = field(default_factory=dict)
    _reading: dict[str, tuple[float, bool]] = field(default_factory=dict)  # since when, keys_only
    _counts: Counter[tuple[str, bool]] = field(default_factory=Counter)  # by entity, keys_only
    _recent: deque[tuple[float, int, int]] = field(default_factory=deque)  # moment, rows, bytes

    def __post_init__(self) -> None:
        self._began_at = self.clock()

    def add(self, event: Event) -> None:
        match event:
            case EntityStarted():
                if not self._started:
                    self._began_at = self.clock()
                self._started.add(event.entity)
            case ReadExpected():
                self._expected[event.entity] = event
            case PageStored():
                self._add_page(event)
            case StillWaiting():
                self.in_flight, self.waited_s = event.in_flight, event.waited_s
            case EntityFinished():
                self._end(event.report.name)
            case EntityVerified() | EntityExported():
                self._end(event.entity)

    def _end(self, entity: str) -> None:
        self._done.add(entity)
        self._reading.pop(entity, None)

    def _add_page(self, page: PageStored) -> None:
        now = self.clock()
        self.in_flight, self.waited_s = page.in_flight, page.waited_s
        self._recent.append((now, page.records, page.size))
        if not page.keys_only:
            self.rows += page.records
        self._counts[page.entity, page.keys_only] += page.records
        since, _ = self._reading.get(page.entity, (now, False))
        self._reading[page.entity] = (since, page.keys_only)

    def _measure(self, entity: str, keys_only: bool) -> EntityProgress:
        expected = self._expected.get(entity, ReadExpected(entity))
        total = expected.keys if keys_only else expected.records
        return EntityProgress(entity, self._counts[entity, keys_only], total, keys_only)

    def find_largest(self, most: int, for_s: float = 0.0) -> tuple[Sequence[EntityProgress], int]:
        """Find the largest of the entities that have been read for so long.

        Returns:
            At most ``most`` of them, in the order in which they began, and how many more there are.
        """
        before = self.clock() - for_s
        running = [
            self._measure(entity, keys_only)
            for entity, (since, keys_only) in self._reading.items()
            if since <= before
        ]
        largest = sorted(running, key=lambda reading: reading.size, reverse=True)[:most]
        return [reading for reading in running if reading in largest], len(running) - len(largest)

    @property
    def elapsed_s(self) -> float:  # since the first entity was started
        return self.clock() - self._began_at

    def __str__(self) -> str:
        """All in one line: ``12 of 40 done, 1,234,567 rows, ...``, the most important first."""
        now = self.clock()
        while self._recent and self._recent[0][0] < now - RATE_S:
            self._recent.popleft()
        seconds = min(RATE_S, max(self.elapsed_s, 1.0))
        rows = sum(rows for _, rows, _ in self._recent) / seconds
        size = sum(size for _, _, size in self._recent) / seconds
        parts = [
            f"{len(self._done)} of {len(self._started)} done",
            f"{self.rows:,} rows",
            f"{rows:,.0f} rows/s",
            f"{size / 1e6:.1f} MB/s",
        ]
        parts += [f"{self.in_flight} in flight"] if self.in_flight else []
        parts += [f"waited {self.waited_s:.0f} s for throttling"] if self.waited_s else []
        return ", ".join([*parts, format_clock(self.elapsed_s)])


# Plain lines, or nothing


class QuietDisplay:
    """Writes nothing."""

    log_line = None

    def show(self, event: Event) -> None:
        pass

    def close(self) -> None:
        pass


class PlainDisplay(QuietDisplay):
    """Writes a line for each phase and entity, and one now and then while much is read."""

    def __init__(
        self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write = write
        self._clock = clock
        self._tally = Tally(clock)
        self._wrote_at: float | None = None  # about what is being read

    def show(self, event: Event) -> None:
        self._tally.add(event)
        if line := format_event(event):
            self._write(line)
        if isinstance(event, EntityStarted) and self._wrote_at is None:
            self._wrote_at = self._clock()
        self._write_now_and_then()

    def _write_now_and_then(self) -> None:
        every_s = EVERY_S if self._tally.elapsed_s <= LATER_EVERY_S else LATER_EVERY_S
        if self._wrote_at is None or self._clock() - self._wrote_at < every_s:
            return
        largest, more = self._tally.find_largest(_NAMED)
        if not largest:
            return
        self._wrote_at = self._clock()
        named = [f"{reading.entity} {reading}" for reading in largest]
        named += [f"{more} more"] if more else []
        self._write(f"  {self._tally}; reading {'; '.join(named)}")


def format_event(event: Event) -> str | None:
    """Write the line about a phase or a finished entity; other events have none."""
    match event:
        case PhaseStarted(number, text):
            return f"[{number}/6] {text}"
        case EntityFinished(report):
            counts = asdict(report.counts)
            changed = [f"{counts[kind]:,} {kind}" for kind in _CHANGES if counts[kind]]
            if not changed and report.state == "completed":
                changed = ["nothing changed"]
            return f"  {report.name}: {', '.join([report.state, *changed])}"
    return None
