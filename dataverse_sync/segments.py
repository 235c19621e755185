"""Cut a large table into ranges of ``createdon`` that are read at once; pure decisions.

A range is half-open: from its first moment up to, but without, the first moment
after it. The newest range has no end, and records without ``createdon`` are a
range of their own, so that every record is in exactly one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from dataverse_sync.odata import parse_timestamp

ROWS_PER_SEGMENT = 20_000  # fewer are not worth the requests that a range costs
WORTH_PAGES = 3.0  # left in a range that is halved: its reader asks for a part of one too much
MOST_SEGMENTS = 16  # ranges of one table read at once, unless the user says otherwise


@dataclass(frozen=True, slots=True)
class Segment:
    """A range of ``createdon``, and how far its read has come."""

    since: str | None = None  # the first moment in it; None: from the oldest record on
    until: str | None = None  # the first moment after it; None: to the newest record
    is_null: bool = False  # instead: the records that have no createdon
    next_link: str | None = None  # where its read goes on; None: at its beginning
    page: int = 1  # the number of the page behind the link
    is_done: bool = False

    @property
    def filter(self) -> str:
        """The ``$filter`` of the range."""
        if self.is_null:
            return "createdon eq null"
        parts = [f"createdon ge {self.since}"] if self.since else []
        parts += [f"createdon lt {self.until}"] if self.until else []
        return " and ".join(parts)


@dataclass(frozen=True, slots=True)
class Came:
    """What has come of a range so far in this run: how many pages, from when to when."""

    pages: int
    first: datetime
    last: datetime


def choose_count(rows: int | None, most: int | None) -> int:
    """How many ranges to read at once; 1 means one chain of pages.

    Args:
        rows: About how many records there are; None where that is not known.
        most: What ``--segments`` allows; None where it was not given.
    """
    if rows is None:
        return 1
    return max(1, min(most or MOST_SEGMENTS, rows // ROWS_PER_SEGMENT))


def cut(oldest: datetime, newest: datetime, count: int) -> list[Segment]:
    """Ranges of equal length between two moments, the outer ones open, and one for nulls."""
    step = (newest - oldest) / count
    moments = [to_text(oldest + step * at) for at in range(1, count)]
    inner = [moment for moment in dict.fromkeys(moments) if moment > to_text(oldest)]
    return [
        *(
            Segment(since, until)
            for since, until in zip([None, *inner], [*inner, None], strict=True)
        ),
        Segment(is_null=True),
    ]


def split(segment: Segment, came: Came | None, newest: datetime) -> tuple[Segment, Segment] | None:
    """Take the later half of what remains of a range; None where nothing can be taken.

    Args:
        segment: A range that is being read, oldest records first.
        came: What has come of it.
        newest: The end of a range that is open.
    """
    left = came.last if came else parse_timestamp(segment.since)
    end = parse_timestamp(segment.until) or newest
    if left is None or segment.is_null or segment.is_done:
        return None
    middle = (left + (end - left) / 2).replace(microsecond=0)
    if middle <= left + timedelta(seconds=1) or middle >= end:
        return None
    moment = to_text(middle)
    return replace(segment, until=moment), Segment(moment, segment.until)


def pages_left(segment: Segment, came: Came | None, newest: datetime) -> float:
    """About how many pages a range still has, if what is left is like what came."""
    if came is None or came.last <= came.first or segment.is_done:
        return 0.0
    left = (parse_timestamp(segment.until) or newest) - came.last
    return came.pages * (left / (came.last - came.first))


def find_longest(
    segments: Sequence[Segment], came: Sequence[Came | None], newest: datetime
) -> int | None:
    """Which range to halve: the one with most pages left; None where none has enough of them."""
    longest, most = None, WORTH_PAGES
    for at, segment in enumerate(segments):
        left = pages_left(segment, came[at], newest)
        if left >= most and split(segment, came[at], newest) is not None:
            longest, most = at, left
    return longest


def to_text(moment: datetime) -> str:
    """A moment as a filter has it, to the second."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
