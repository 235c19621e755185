"""Write one HTML page that says how the last runs went, for a mail, a share or a phone.

Reads the file alone, also while a sync writes it; asks nobody. The page holds all
that it needs: no script, no font, no picture from elsewhere. Text is laid out by
``templates/report.html``, where every value is escaped; this module reads, judges
and measures.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import dropwhile
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from sqlalchemy import Connection, func, select
from sqlalchemy.exc import DBAPIError

from dataverse_sync.errors import ConfigError, StorageError
from dataverse_sync.model import Counts
from dataverse_sync.moments import parse_timestamp
from dataverse_sync.store import run_lock
from dataverse_sync.store.database import check_file, open_reader, read_tables
from dataverse_sync.store.deletions import DELETED
from dataverse_sync.store.schema_lock import SCHEMA_CHANGES
from dataverse_sync.store.sync_state import DIED, LOG, STATE
from dataverse_sync.version import __version__

DEFAULT_RUNS = 30
CHANGES_SHOWN = 100
PLOT_PX = 150.0  # the height of the charts' plot
_ROOM_PX = 26.0  # above the highest bar, for its mark and for bars that are cut off
_CUT_ROOM_PX = 4.0
_FEWEST_SLOTS = 10  # so that one run is a bar and not a wall
_OUTLIER = 5.0  # a bar so many times the next one is cut off, or the others would vanish
_STEPS_S = (
    *(0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30),
    *(60, 120, 300, 600, 900, 1800),
    *(3600, 7200, 14400, 28800, 86400),
)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")

RunStatus = Literal["completed", "failed", "in_progress"]


@dataclass(frozen=True, slots=True)
class LogEntry:
    """What one run did for one entity: a row of ``_sync_log``."""

    run_id: str
    entity: str
    started_at: datetime
    finished_at: datetime | None
    status: RunStatus
    counts: Counts
    requests: int
    error: str | None

    @property
    def duration_s(self) -> float | None:
        return _seconds_between(self.started_at, self.finished_at)


@dataclass(frozen=True, slots=True)
class Run:
    """The entries of one run; there is at least one."""

    run_id: str
    entries: tuple[LogEntry, ...]

    @property
    def started_at(self) -> datetime:
        return min(entry.started_at for entry in self.entries)

    @property
    def finished_at(self) -> datetime | None:
        """When the last entity ended; None while one is still in progress."""
        ends = [entry.finished_at for entry in self.entries if entry.finished_at]
        return max(ends) if len(ends) == len(self.entries) else None

    @property
    def duration_s(self) -> float | None:
        return _seconds_between(self.started_at, self.finished_at)

    @property
    def status(self) -> RunStatus:
        statuses = {entry.status for entry in self.entries}
        if "in_progress" in statuses:
            return "in_progress"
        return "failed" if "failed" in statuses else "completed"

    @property
    def failed(self) -> tuple[LogEntry, ...]:
        return tuple(entry for entry in self.entries if entry.status == "failed")

    @property
    def completed(self) -> int:
        return sum(entry.status == "completed" for entry in self.entries)

    @property
    def totals(self) -> Counts:
        return sum((entry.counts for entry in self.entries), Counts())

    @property
    def requests(self) -> int:
        return sum(entry.requests for entry in self.entries)


@dataclass(frozen=True, slots=True)
class EntityRow:
    """One entity as the database knows it, and what it did in the runs shown."""

    name: str
    state: str
    rows: int
    bookmark: str | None
    last_success_at: datetime | None
    error: str | None
    configured: bool  # False: taken out of the configuration, its table stays
    last: LogEntry | None
    growth: tuple[int, ...]  # rows before the first run shown, then after each
    failures: int  # of the runs shown, how many failed since the last success
    failing_since: datetime | None

    @property
    def is_new(self) -> bool:
        """Whether its first rows came in the runs shown."""
        return self.growth[0] == 0 < self.rows

    @property
    def sizes(self) -> tuple[int, ...]:
        """The growth since the first load, beside which nothing later would show."""
        return tuple(dropwhile(lambda size: size == 0, self.growth)) or (0,)

    @property
    def grown(self) -> int:
        return self.sizes[-1] - self.sizes[0]


@dataclass(frozen=True, slots=True)
class Change:
    """A difference between the locked schema and the live one: a row of ``_schema_changes``."""

    entity: str
    column: str | None
    change: str
    severity: str
    old_type: str | None
    new_type: str | None
    detected_at: datetime
    standing: bool


@dataclass(frozen=True, slots=True)
class Removals:
    """How many rows of one entity are kept in ``_sync_deleted``, by reason."""

    entity: str
    by_reason: Mapping[str, int]
    last_at: datetime

    @property
    def total(self) -> int:
        return sum(self.by_reason.values())


@dataclass(frozen=True, slots=True)
class ReportData:
    """All that the page says."""

    database: str  # the file's name alone: the page may travel
    written_at: datetime
    running: bool  # whether a run held the database then
    runs: tuple[Run, ...]  # oldest first
    entities: tuple[EntityRow, ...]
    changes: tuple[Change, ...]  # newest first
    changes_left_out: int
    removals: tuple[Removals, ...]

    @property
    def last_run(self) -> Run | None:
        """The newest run that has ended."""
        return next((run for run in reversed(self.runs) if run.status != "in_progress"), None)

    @property
    def current_run(self) -> Run | None:
        return next((run for run in reversed(self.runs) if run.status == "in_progress"), None)

    @property
    def failing(self) -> tuple[EntityRow, ...]:
        return tuple(entity for entity in self.entities if entity.error and entity.configured)

    @property
    def earlier_failures(self) -> tuple[LogEntry, ...]:
        """Failures in the runs before the last one, newest first."""
        last = self.last_run
        return tuple(
            entry for run in reversed(self.runs) if run is not last for entry in run.failed
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a person should know before anything else."""

    kind: Literal["ok", "failed", "attention", "running", "empty"]
    text: str


# Writing


def write_report(db_path: Path, path: Path, now: datetime) -> None:
    """Write the report, whole or not at all.

    Args:
        db_path: The SQLite file.
        path: The HTML file to make or replace.
        now: When it is written, UTC; ages are told from it.

    Raises:
        ConfigError: There is no database, or ``path`` is one.
        StorageError: The page cannot be written there.
    """
    check_target(path, db_path)
    text = render(load_report(db_path, now))
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        try:
            with partial.open("w", encoding="utf-8", newline="\n") as file:
                file.write(text)
            partial.replace(path)
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"{path}: the report cannot be written ({error.strerror or error})",
            "Name a file in a folder that is there and can be written.",
        ) from error


def check_target(path: Path, db_path: Path) -> None:
    """See that a report would not take the place of a database.

    Raises:
        ConfigError: It would.
    """
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder, not a place for a report", "Name an HTML file.")
    is_database = path.absolute() == db_path.absolute()
    with suppress(OSError), path.open("rb") as file:
        is_database |= file.read(16) == b"SQLite format 3\0"
    if is_database:
        raise ConfigError(
            f"{path}: is a database, not a place for a report",
            "Name an HTML file, such as report.html; --db names the database.",
        )


def render(data: ReportData) -> str:
    """The page as text."""
    environment = Environment(
        loader=PackageLoader("dataverse_sync"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_without_control_characters,
    )
    environment.filters.update(
        number=format_number,
        signed=format_signed,
        moment=format_moment,
        duration=format_duration,
        plural=format_plural,
        px=_px,
    )
    return environment.get_template("report.html").render(
        data=data,
        verdict=judge(data),
        durations=draw_durations(data.runs),
        changes=draw_changes(data.runs),
        draw_growth=draw_growth,
        seconds_ago=lambda moment: max(0.0, (data.written_at - moment).total_seconds()),
        version=__version__,
        plot=PLOT_PX,
    )


def _without_control_characters(value: Any) -> Any:
    """What no HTML file may hold becomes the sign for it; Markup stays Markup."""
    return type(value)(_CONTROL.sub("\ufffd", value)) if isinstance(value, str) else value


# Reading


def load_report(db_path: Path, now: datetime, runs: int = DEFAULT_RUNS) -> ReportData:
    """Read what the page says, in one transaction: a run that goes on meanwhile is not half seen.

    Args:
        db_path: The SQLite file.
        now: When the report is written.
        runs: How many of the newest runs to read.

    Raises:
        ConfigError: There is no database, or the file is not one of this program.
    """
    if not db_path.exists():
        raise ConfigError(
            f"{db_path}: there is no database yet",
            "Run a sync first, or name the database with --db or SQLITE_DB_PATH.",
        )
    check_file(db_path, to_write=False)
    try:
        return _load(db_path, now, runs)
    except (DBAPIError, ValueError) as error:
        reason = error.orig if isinstance(error, DBAPIError) else error
        raise ConfigError(
            f"{db_path}: cannot be read ({reason})",
            "Is it a database of this program, and whole? Name it with --db.",
        ) from error


def _load(db_path: Path, now: datetime, runs: int) -> ReportData:
    running = run_lock.is_held(db_path)
    with open_reader(db_path).connect() as connection:
        connection.exec_driver_sql("BEGIN")
        if STATE.name not in read_tables(connection):
            return ReportData(db_path.name, now, running, (), (), (), 0, ())
        entries = _load_entries(connection, runs)
        newest = _load_newest_entries(connection)
        states = connection.execute(select(STATE).order_by(STATE.c.entity_name)).all()
        changes = _load_changes(connection)
        removals = _load_removals(connection)
    running = running or run_lock.is_held(db_path)  # it may have begun in between
    if not running:
        entries = [_as_dead(entry) for entry in entries]
        newest = {name: _as_dead(entry) for name, entry in newest.items()}
    gone = {
        change.entity for change in changes if change.standing and change.change == "entity_removed"
    }
    grouped = _group_runs(entries)
    return ReportData(
        database=db_path.name,
        written_at=now,
        running=running,
        runs=grouped,
        entities=tuple(
            _build_entity(row, grouped, newest.get(row.entity_name), running, gone)
            for row in states
        ),
        changes=tuple(changes[:CHANGES_SHOWN]),
        changes_left_out=max(0, len(changes) - CHANGES_SHOWN),
        removals=removals,
    )


def _load_entries(connection: Connection, runs: int) -> list[LogEntry]:
    last = func.max(LOG.c.id)
    newest = select(LOG.c.run_id).group_by(LOG.c.run_id).order_by(last.desc()).limit(runs)
    query = select(LOG).where(LOG.c.run_id.in_(newest)).order_by(LOG.c.id)
    return [_to_entry(row) for row in connection.execute(query)]


def _load_newest_entries(connection: Connection) -> Mapping[str, LogEntry]:
    newest = select(func.max(LOG.c.id)).group_by(LOG.c.entity_name)
    rows = connection.execute(select(LOG).where(LOG.c.id.in_(newest)))
    return {row.entity_name: _to_entry(row) for row in rows}


def _to_entry(row: Any) -> LogEntry:
    return LogEntry(
        run_id=row.run_id,
        entity=row.entity_name,
        started_at=_read_moment(row.started_at),
        finished_at=None if row.finished_at is None else _read_moment(row.finished_at),
        status=row.status,
        counts=Counts(
            row.records_fetched,
            row.records_added,
            row.records_updated,
            row.records_unchanged,
            row.records_deleted,
        ),
        requests=row.requests,
        error=row.error,
    )


def _load_changes(connection: Connection) -> Sequence[Change]:
    query = select(SCHEMA_CHANGES).order_by(SCHEMA_CHANGES.c.id.desc())
    return [
        Change(
            entity=row.entity_name,
            column=row.column_name,
            change=row.change,
            severity=row.severity,
            old_type=row.old_type,
            new_type=row.new_type,
            detected_at=_read_moment(row.detected_at),
            standing=bool(row.standing),
        )
        for row in connection.execute(query)
    ]


def _load_removals(connection: Connection) -> tuple[Removals, ...]:
    query = (
        select(
            DELETED.c.entity_name, DELETED.c.reason, func.count(), func.max(DELETED.c.deleted_at)
        )
        .group_by(DELETED.c.entity_name, DELETED.c.reason)
        .order_by(DELETED.c.entity_name)
    )
    counted: dict[str, dict[str, int]] = {}
    last_at: dict[str, datetime] = {}
    for name, reason, count, at in connection.execute(query):
        counted.setdefault(name, {})[reason] = count
        last_at[name] = max(last_at.get(name, _read_moment(at)), _read_moment(at))
    return tuple(Removals(name, counts, last_at[name]) for name, counts in counted.items())


def _read_moment(text: str) -> datetime:
    moment = parse_timestamp(text)
    if moment is None:
        raise ValueError(f"{text!r} is no moment")
    return moment


def _as_dead(entry: LogEntry) -> LogEntry:
    """What is in progress while nobody holds the database was killed."""
    if entry.status != "in_progress":
        return entry
    return replace(entry, status="failed", error=DIED)


def _group_runs(entries: Iterable[LogEntry]) -> tuple[Run, ...]:
    grouped: dict[str, list[LogEntry]] = {}
    for entry in entries:
        grouped.setdefault(entry.run_id, []).append(entry)
    return tuple(Run(run_id, tuple(of_run)) for run_id, of_run in grouped.items())


def _build_entity(
    row: Any, runs: Sequence[Run], last: LogEntry | None, running: bool, gone: set[str]
) -> EntityRow:
    state, error = row.state, row.error
    if state == "in_progress" and not running:
        state, error = "failed", error or DIED
    own = [entry for run in runs for entry in run.entries if entry.entity == row.entity_name]
    streak: list[LogEntry] = []
    for entry in reversed(own):
        if entry.status == "completed":
            break
        if entry.status == "failed":
            streak.append(entry)
    success = row.last_sync_time
    return EntityRow(
        name=row.entity_name,
        state=state,
        rows=row.records_count,
        bookmark=row.last_timestamp,
        last_success_at=None if success is None else _read_moment(success),
        error=error,
        configured=row.entity_name not in gone,
        last=last,
        growth=trace_growth(row.records_count, own),
        failures=len(streak),
        failing_since=streak[-1].started_at if streak else None,
    )


def trace_growth(rows: int, entries: Sequence[LogEntry]) -> tuple[int, ...]:
    """How many rows there were before these runs and after each, told backwards from now.

    Args:
        rows: What the table holds now.
        entries: Of one entity, oldest first; what is in progress is not counted in ``rows`` yet.
    """
    sizes = [rows]
    for entry in reversed(entries):
        if entry.status != "in_progress":
            sizes.append(max(0, sizes[-1] - entry.counts.added + entry.counts.deleted))
    return tuple(reversed(sizes))


# Judging


def judge(data: ReportData) -> Verdict:
    """The verdict at the top: how the last run that has ended went, and what still fails."""
    last = data.last_run
    if last is None:
        if data.running:
            return Verdict("running", "The first run is under way")
        return Verdict("empty", "Nothing has been synced yet")
    if last.failed:
        of = format_plural(len(last.entries), "table")
        return Verdict("failed", f"The last run failed for {len(last.failed):,} of {of}")
    if data.failing:
        tables = format_plural(len(data.failing), "table")
        verb = "fails" if len(data.failing) == 1 else "fail"
        return Verdict("attention", f"The last run completed, but {tables} still {verb}")
    return Verdict("ok", "The last run completed")


# Words and numbers


def format_number(number: int) -> str:
    return f"{number:,}"


def format_signed(number: int) -> str:
    """A change: ``+1,204``, ``0``, and with a real minus sign where it is less."""
    return f"{number:+,}".replace("-", "\u2212") if number else "0"


def format_plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def format_moment(moment: datetime, seconds: bool = False) -> str:
    """``2026-11-23 02:00``; the page says that times are UTC."""
    return moment.strftime("%Y-%m-%d %H:%M:%S" if seconds else "%Y-%m-%d %H:%M")


def format_duration(seconds: float) -> str:
    """A length of time in at most two units: ``0.4 s``, ``41 s``, ``3 min 20 s``, ``2 d 4 h``."""
    if seconds < 9.95:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    for small, large, of in (("s", "min", 60), ("min", "h", 60)):
        count, rest = divmod(whole, of)
        if count < (60 if large == "min" else 48):
            return f"{count} {large} {rest} {small}" if rest else f"{count} {large}"
        whole = round(whole / of)
    days, hours = divmod(whole, 24)
    return f"{days:,} d {hours} h" if hours else f"{days:,} d"


def _seconds_between(start: datetime, end: datetime | None) -> float | None:
    return None if end is None else max(0.0, (end - start).total_seconds())


def _px(number: float) -> str:
    return f"{number:.2f}".rstrip("0").rstrip(".")


# Measuring: x in percent of the plot's width, so that it fits any; y in pixels


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a bar."""

    kind: str
    y: float
    height: float


@dataclass(frozen=True, slots=True)
class Bar:
    """One run in a chart."""

    run: Run
    x: float
    width: float
    top: float
    blocks: tuple[Block, ...]
    cut: bool  # higher than the chart; its value is written beside it
    value: str

    @property
    def middle(self) -> float:
        return self.x + self.width / 2


@dataclass(frozen=True, slots=True)
class Label:
    """A word on an axis: in percent along it."""

    at: float
    text: str
    align: Literal["start", "middle", "end"] = "middle"


@dataclass(frozen=True, slots=True)
class Chart:
    """Bars, one a run, with the words on both axes."""

    bars: tuple[Bar, ...]
    ticks: tuple[Label, ...]
    dates: tuple[Label, ...]

    @property
    def has_cut(self) -> bool:
        return any(bar.cut for bar in self.bars)


@dataclass(frozen=True, slots=True)
class Spark:
    """The line of one table's growth, in a box of 100 by 28."""

    points: str
    area: str
    end_y: float


def draw_durations(runs: Sequence[Run]) -> Chart | None:
    """How long each run took that has ended; None where there is none."""
    ended = [(run, run.duration_s) for run in runs]
    parts = [(run, {"duration": seconds}) for run, seconds in ended if seconds is not None]
    return _draw(parts, format_duration, _STEPS_S)


def draw_changes(runs: Sequence[Run]) -> Chart | None:
    """The rows that each run changed, by kind; None where there is no run."""
    parts = []
    for run in runs:
        totals = run.totals
        kinds = {"added": totals.added, "updated": totals.updated, "deleted": totals.deleted}
        parts.append((run, {kind: float(count) for kind, count in kinds.items()}))
    return _draw(parts, lambda count: f"{count:,.0f}", ())


def _draw(
    parts: Sequence[tuple[Run, Mapping[str, float]]], word: Any, steps: Sequence[float]
) -> Chart | None:
    if not parts:
        return None
    sums = [sum(kinds.values()) for _, kinds in parts]
    highest = find_highest(sums)
    step = find_step(highest, steps)
    limit = max(highest, step)
    slots = max(len(parts), _FEWEST_SLOTS)
    room = PLOT_PX - _ROOM_PX
    bars = []
    for at, ((run, kinds), total) in enumerate(zip(parts, sums, strict=True)):
        cut = total > limit
        scale = (PLOT_PX - _CUT_ROOM_PX) / total if cut else room / limit
        bottom, blocks = PLOT_PX, []
        for kind, amount in kinds.items():
            if amount > 0:
                height = max(1.0, amount * scale)
                bottom -= height
                blocks.append(Block(kind, bottom, height))
        x, width = 100 * (at + 0.14) / slots, 72 / slots
        bars.append(Bar(run, x, width, bottom, tuple(blocks), cut, word(total)))
    count = math.floor(limit / step + 1e-9)
    ticks = tuple(
        Label(100 * (PLOT_PX - room * at * step / limit) / PLOT_PX, word(at * step))
        for at in range(count + 1)
    )
    return Chart(tuple(bars), ticks, _label_dates([bar.run for bar in bars], slots))


def find_highest(values: Sequence[float]) -> float:
    """The value that a chart must be high enough for.

    A first load may be a thousand times what comes after it. Up to two such values are
    left out of the scale, so that the others can be told apart.
    """
    ranked = sorted((value for value in values if value > 0), reverse=True)
    for at in range(min(2, len(ranked) - 2)):
        if ranked[at] > _OUTLIER * ranked[at + 1]:
            ranked[: at + 1] = [ranked[at + 1]] * (at + 1)
    return ranked[0] if ranked else 0.0


def find_step(highest: float, steps: Sequence[float]) -> float:
    """The distance of a chart's lines: round, and no more than four of them.

    Args:
        highest: What the chart goes up to.
        steps: Distances to choose from; beyond them, and without them, 1, 2 or 5 times a
            power of ten, of at least 1.
    """
    for step in steps:
        if highest <= 4 * step:
            return step
    power = max(0, math.floor(math.log10(highest / 4))) if highest > 4 else 0
    return next(
        float(times * 10**power) for times in (1, 2, 5, 10) if highest <= 4 * times * 10**power
    )


def _label_dates(runs: Sequence[Run], slots: int) -> tuple[Label, ...]:
    last = len(runs) - 1
    shown = {0, last // 2, last} if last >= 8 else {0, last} if last >= 4 else {last}
    labels = []
    for at in sorted(shown):
        percent = 100 * (at + 0.5) / slots
        align: Literal["start", "middle", "end"] = "middle"
        if percent < 15:
            percent, align = 0.0, "start"
        elif percent > 85:
            percent, align = 100.0, "end"
        labels.append(Label(percent, runs[at].started_at.strftime("%m-%d %H:%M"), align))
    return tuple(labels)


def draw_growth(sizes: Sequence[int]) -> Spark:
    """The line of a table's sizes, each table on its own scale; flat where nothing changed."""
    low, high = min(sizes), max(sizes)
    steps = max(1, len(sizes) - 1)
    ys = [14.0 if low == high else 25 - 22 * (size - low) / (high - low) for size in sizes]
    if len(ys) == 1:
        ys *= 2
    points = " ".join(f"{_px(100 * at / steps)},{_px(y)}" for at, y in enumerate(ys))
    return Spark(points, f"0,28 {points} 100,28", ys[-1])
