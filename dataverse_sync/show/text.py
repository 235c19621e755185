"""Say in plain text what a run did; the same on a terminal and in a log file."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dataverse_sync.model import Drift, EntityReport, SyncReport

_HEADS = (
    "entity",
    "fetched",
    "added",
    "updated",
    "unchanged",
    "deleted",
    "requests",
    "seconds",
    "state",
)


_NUMBER = re.compile(r"-?[\d,]+(\.\d+)?( ?[%A-Za-z]+)?|-|never")  # also "26 h", "1.5 MB"


def format_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: numbers to the right, words to the left, and so the first column."""
    aligned: list[list[str]] = []
    for head, *cells in zip(heads, *rows, strict=True):
        width = max(map(len, (head, *cells)))
        is_numbers = bool(cells and aligned) and all(map(_NUMBER.fullmatch, cells))
        adjust = str.rjust if is_numbers else str.ljust
        aligned.append([adjust(cell, width) for cell in (head, *cells)])
    return ["  ".join(row).rstrip() for row in zip(*aligned, strict=True)]


def format_summary(report: SyncReport) -> list[str]:
    """The summary at the end of a run, line by line."""
    lines = format_table(_HEADS, [_row(entity) for entity in report.entities])
    lines += ["", format_result(report)]
    if report.waited_s:
        lines.append(f"Waited {report.waited_s:.0f} s because the service was busy (429).")
    if report.drift:
        lines.append(format_drift(report.drift))
    lines += [f"Note: {name}: {note}" for name, note in report.notes.items()]
    lines += [f"Failed: {entity.error}" for entity in report.failed]
    return lines


def format_drift(drift: Sequence[Drift]) -> str:
    """How far the live schema is from the locked one, in one line."""
    breaking = sum(item.severity == "breaking" for item in drift)
    return (
        f"Schema drift: {count(len(drift), 'difference')}, {breaking} breaking. "
        "See: python -m dataverse_sync schema diff"
    )


def format_result(report: SyncReport) -> str:
    """The whole run in one line."""
    totals = report.totals
    done = sum(entity.state == "completed" for entity in report.entities)
    pending = sum(entity.state == "pending" for entity in report.entities)
    parts = [f"{done} of {len(report.entities)} entities completed"]
    if pending:
        parts.append(f"{pending} pending")
    if report.failed:
        parts.append(f"{len(report.failed)} failed")
    seconds = (report.finished_at - report.started_at).total_seconds()
    return (
        f"{', '.join(parts)}: {totals.fetched} fetched, {totals.added} added, "
        f"{totals.updated} updated, {totals.unchanged} unchanged, {totals.deleted} deleted, "
        f"{report.requests} requests, {report.bytes_read / 1e6:.1f} MB in {seconds:.1f} s"
    )


def count(number: int, what: str) -> str:
    """``1 failure``, ``2 failures``."""
    return f"{number} {what}" + ("" if number == 1 else "s")


def _row(entity: EntityReport) -> list[str]:
    counts = entity.counts
    return [
        entity.name,
        str(counts.fetched),
        str(counts.added),
        str(counts.updated),
        str(counts.unchanged),
        str(counts.deleted),
        str(entity.requests),
        f"{entity.seconds:.1f}",
        entity.state,
    ]
