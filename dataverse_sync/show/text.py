"""Plain text for people: a table, a count, a duration, a size; and the summary of a run.

The same on a terminal and in a log file.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import astuple, fields

from dataverse_sync.dataverse.error_codes import drop_repeated_hint
from dataverse_sync.model import Counts, Drift, EntityReport, SyncReport

_HEADS = ("entity", *(field.name for field in fields(Counts)), "requests", "seconds", "state")
_NUMBER = re.compile(r"-?[\d,]+(\.\d+)?( ?[%A-Za-z]+)?|-|never")  # also "26 h", "1.5 MB"


def format_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lay out a table: numbers to the right, words and the first column to the left."""
    aligned: list[list[str]] = []
    for head, *cells in zip(heads, *rows, strict=True):
        width = max(map(len, (head, *cells)))
        is_numbers = bool(cells and aligned) and all(map(_NUMBER.fullmatch, cells))
        adjust = str.rjust if is_numbers else str.ljust
        aligned.append([adjust(cell, width) for cell in (head, *cells)])
    return ["  ".join(row).rstrip() for row in zip(*aligned, strict=True)]


def format_count(number: int, noun: str) -> str:
    """Write a number with its noun: ``1 failure``, ``2,000 failures``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def format_size(size: float) -> str:
    """Write a number of bytes in the largest unit that fits: ``512 bytes``, ``1.5 MB``."""
    for unit, bytes_each in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= bytes_each:
            return f"{size / bytes_each:,.1f} {unit}"
    return f"{size:.0f} bytes"


def format_duration(seconds: float) -> str:
    """Write a duration in two units at most: ``0.4 s``, ``41 s``, ``3 min 20 s``, ``2 d 4 h``."""
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


def format_age(seconds: float | None) -> str:
    """Write an age in one unit: ``45 s``, ``12 min``, ``26 h``, ``3 d``, ``never``."""
    if seconds is None:
        return "never"
    for unit, seconds_each, limit_s in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172800)):
        if seconds < limit_s:
            return f"{seconds / seconds_each:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"


def format_clock(seconds: float) -> str:
    """Write a duration as a clock shows it: ``0:07``, ``12:00``, ``3:04:05``."""
    minutes, left = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


def format_summary(report: SyncReport, said: Collection[str] = ()) -> list[str]:
    """Write what a run did, table by table; hints that were ``said`` before are left out."""
    lines = format_table(_HEADS, [_build_row(entity) for entity in report.entities])
    lines += ["", format_result(report)]
    if report.waited_s:
        lines.append(f"Waited {report.waited_s:.0f} s because the service was busy (429).")
    if report.drift:
        lines.append(format_drift(report.drift))
    lines += [f"Note: {name}: {note}" for name, note in report.notes.items()]
    return lines + format_failures([entity.error or "" for entity in report.failed], said)


def format_failures(errors: Iterable[str], said: Collection[str] = ()) -> list[str]:
    """Write why entities failed, a hint about refused access once."""
    known = set(said)
    return [f"Failed: {drop_repeated_hint(error, known)}" for error in errors]


def _build_row(entity: EntityReport) -> list[str]:
    numbers = [*map(str, astuple(entity.counts)), str(entity.requests), f"{entity.seconds:.1f}"]
    return [entity.name, *numbers, entity.state]


def format_drift(drift: Sequence[Drift]) -> str:
    """Count the differences between the locked and the live schema, in one line."""
    breaking = sum(item.severity == "breaking" for item in drift)
    return (
        f"Schema drift: {format_count(len(drift), 'difference')}, {breaking} breaking. "
        "See: python -m dataverse_sync schema diff"
    )


def format_result(report: SyncReport) -> str:
    """Write the whole run in one line."""
    totals = report.totals
    done = sum(entity.state == "completed" for entity in report.entities)
    pending = sum(entity.state == "pending" for entity in report.entities)
    parts = [f"{done} of {len(report.entities)} entities completed"]
    parts += [f"{pending} pending"] if pending else []
    parts += [f"{len(report.failed)} failed"] if report.failed else []
    seconds = (report.finished_at - report.started_at).total_seconds()
    return (
        f"{', '.join(parts)}: {totals.fetched} fetched, {totals.added} added, "
        f"{totals.updated} updated, {totals.unchanged} unchanged, {totals.deleted} deleted, "
        f"{report.requests} requests, {report.bytes_read / 1e6:.1f} MB in {seconds:.1f} s"
    )
