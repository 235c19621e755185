"""How far a run has come, told from its events: what is read, how fast, what is done.

Pure bookkeeping: knows no console. What is expected is an estimate (a count that the
service made up to a day ago), so it is shown only until it is exceeded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from dataverse_sync.model import (
    EntityFinished,
    EntityStarted,
    Event,
    PageStored,
    ReadExpected,
    StillWaiting,
)

RATE_S = 10.0  # speeds are those of the last ten seconds


@dataclass(frozen=True, slots=True)
class Reading:
    """One entity that is being read: its records, or, to see what is gone, its keys alone."""

    entity: str
    began_at: float  # when its first page was stored
    done: int = 0
    expected: int | None = None
    keys_only: bool = False

    @property
    def total(self) -> int | None:
        """What is expected, as long as that can be true."""
        return self.expected if self.expected and self.expected >= self.done else None

    @property
    def size(self) -> int:
        return max(self.done, self.expected or 0)

    def __str__(self) -> str:
        kind = "keys" if self.keys_only else "rows"
        about = f" of about {self.total:,}" if self.total else ""
        return f"{self.done:,}{about} {kind}"


@dataclass(frozen=True, slots=True)
class _Stored:
    at: float
    rows: int
    size: int


@dataclass(slots=True)
class Tally:
    """What has happened in a run so far.

    Args:
        clock: Seconds that only go forward.
    """

    clock: Callable[[], float]
    rows: int = 0
    in_flight: int = 0
    waited_s: float = 0.0
    done: int = 0
    _began_at: float = field(init=False)
    _started: set[str] = field(default_factory=set)
    _expected: dict[str, ReadExpected] = field(default_factory=dict)
    _readings: dict[str, Reading] = field(default_factory=dict)
    _counts: dict[tuple[str, bool], int] = field(default_factory=dict)
    _recent: deque[_Stored] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._began_at = self.clock()

    def note(self, event: Event) -> None:
        """Take in what happened."""
        match event:
            case EntityStarted():
                if not self._started:
                    self._began_at = self.clock()
                self._started.add(event.entity)
            case ReadExpected():
                self._expected[event.entity] = event
                if reading := self._readings.get(event.entity):
                    self._readings[event.entity] = self._expect(reading)
            case PageStored():
                self._note_page(event)
            case StillWaiting():
                self.in_flight, self.waited_s = event.in_flight, event.waited_s
            case EntityFinished():
                self.done += 1
                self._readings.pop(event.report.name, None)

    def _note_page(self, page: PageStored) -> None:
        now = self.clock()
        self.in_flight, self.waited_s = page.in_flight, page.waited_s
        self._recent.append(_Stored(now, page.records, page.size))
        if not page.keys_only:
            self.rows += page.records
        kind = (page.entity, page.keys_only)
        self._counts[kind] = self._counts.get(kind, 0) + page.records
        known = self._readings.get(page.entity) or Reading(page.entity, now)
        self._readings[page.entity] = self._expect(
            replace(known, done=self._counts[kind], keys_only=page.keys_only)
        )

    def _expect(self, reading: Reading) -> Reading:
        known = self._expected.get(reading.entity)
        if known is None:
            return reading
        return replace(reading, expected=known.keys if reading.keys_only else known.records)

    def find_largest(self, most: int, for_s: float = 0.0) -> tuple[Sequence[Reading], int]:
        """The largest entities of those that have been read for so long, in their order.

        Returns:
            So many of them at most, and how many more there are.
        """
        before = self.clock() - for_s
        running = [reading for reading in self._readings.values() if reading.began_at <= before]
        largest = sorted(running, key=lambda reading: reading.size, reverse=True)[:most]
        names = {reading.entity for reading in largest}
        return [one for one in running if one.entity in names], len(running) - len(largest)

    @property
    def elapsed_s(self) -> float:
        """Since the first entity was started."""
        return self.clock() - self._began_at

    def __str__(self) -> str:
        """All in one line: ``12 of 40 done, 1,234,567 rows, ...``, the most important first."""
        now = self.clock()
        while self._recent and self._recent[0].at < now - RATE_S:
            self._recent.popleft()
        seconds = min(RATE_S, max(self.elapsed_s, 1.0))
        rows = sum(one.rows for one in self._recent) / seconds
        size = sum(one.size for one in self._recent) / seconds
        parts = [
            f"{self.done} of {len(self._started)} done",
            f"{self.rows:,} rows",
            f"{rows:,.0f} rows/s",
            f"{size / 1e6:.1f} MB/s",
            f"{self.in_flight} in flight",
        ]
        if self.waited_s:
            parts.append(f"waited {self.waited_s:.0f} s for throttling")
        return ", ".join([*parts, format_seconds(self.elapsed_s)])


def format_seconds(seconds: float) -> str:
    """A length of time as a clock shows it: ``0:07``, ``12:00``, ``3:04:05``."""
    minutes, left = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"
