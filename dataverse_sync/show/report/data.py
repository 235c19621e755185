"""What the report says: the last runs, each table with what they did to it, and a verdict.

Reads the file alone, also while a sync writes it; asks nobody.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import Literal

from dataverse_sync.errors import ConfigError
from dataverse_sync.show.text import format_count
from dataverse_sync.store.history import EntityHistory, History, LogEntry, Run, load_history

RUNS_SHOWN = 30


@dataclass(frozen=True, slots=True)
class Table:
    """One entity in the runs shown."""

    entity: EntityHistory
    entries: tuple[LogEntry, ...]  # of the runs shown, oldest first
    is_configured: bool  # False: taken out of the configuration, its table stays

    @property
    def failures(self) -> tuple[LogEntry, ...]:
        """The failed entries since the last success, newest first."""
        since = takewhile(lambda entry: entry.status != "completed", reversed(self.entries))
        return tuple(entry for entry in since if entry.status == "failed")

    @property
    def growth(self) -> tuple[int, ...]:
        """The rows before the runs shown and after each, counted back from the rows of now."""
        sizes = [self.entity.rows]
        for entry in reversed(self.entries):
            if entry.status != "in_progress":  # not counted in the rows yet
                sizes.append(max(0, sizes[-1] - entry.counts.added + entry.counts.deleted))
        return tuple(reversed(sizes))

    @property
    def is_new(self) -> bool:  # the first rows came in the runs shown
        return self.growth[0] == 0 < self.entity.rows

    @property
    def sizes(self) -> tuple[int, ...]:
        """The growth since the first load, beside which no later change would be visible."""
        return tuple(dropwhile(lambda size: size == 0, self.growth)) or (0,)

    @property
    def grown(self) -> int:
        return self.sizes[-1] - self.sizes[0]


@dataclass(frozen=True, slots=True)
class ReportData:
    database: str  # the file's name alone: the page may travel
    written_at: datetime
    history: History
    tables: tuple[Table, ...]

    @property
    def last_run(self) -> Run | None:
        """The newest run that has ended."""
        runs = reversed(self.history.runs)
        return next((run for run in runs if run.status != "in_progress"), None)

    @property
    def current_run(self) -> Run | None:
        """The run in progress; None if there is none, or if it has not begun to read."""
        runs = reversed(self.history.runs)
        return next((run for run in runs if run.status == "in_progress"), None)

    @property
    def failing(self) -> tuple[Table, ...]:
        return tuple(one for one in self.tables if one.entity.error and one.is_configured)

    @property
    def earlier_failures(self) -> tuple[LogEntry, ...]:
        """The failed entries of the runs before the last one, newest first."""
        earlier = [run for run in reversed(self.history.runs) if run is not self.last_run]
        return tuple(entry for run in earlier for entry in run.failed)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a person should know before anything else."""

    kind: Literal["ok", "failed", "attention", "running", "pending"]
    text: str


def load_report(db_path: Path, now: datetime) -> ReportData:
    """Read what the page says; ages in it are counted from ``now``."""
    if not db_path.exists():
        raise ConfigError(
            f"{db_path}: there is no database yet",
            "Run a sync first, or name the database with --db or SQLITE_DB_PATH.",
        )
    history = load_history(db_path, RUNS_SHOWN)
    removed = {
        change.entity
        for change in history.changes
        if change.standing and change.change == "entity_removed"
    }
    entries = [entry for run in history.runs for entry in run.entries]
    tables = []
    for entity in history.entities:
        own = tuple(entry for entry in entries if entry.entity == entity.name)
        tables.append(Table(entity, own, entity.name not in removed))
    return ReportData(db_path.name, now, history, tuple(tables))


def judge(data: ReportData) -> Verdict:
    """Say how the last run that has ended went, and what still fails."""
    last = data.last_run
    if last is None:
        if data.history.holder:
            return Verdict("running", "The first run is under way")
        return Verdict("pending", "Nothing has been synced yet")
    if last.failed:
        of = format_count(len(last.entries), "table")
        return Verdict("failed", f"The last run failed for {len(last.failed):,} of {of}")
    if data.failing:
        tables = format_count(len(data.failing), "table")
        verb = "fails" if len(data.failing) == 1 else "fail"
        return Verdict("attention", f"The last run completed, but {tables} still {verb}")
    return Verdict("ok", "The last run completed")
