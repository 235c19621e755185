"""Cut a large table into ranges of ``createdon`` that are read at once; pure decisions.

A range is half-open: from its first moment up to, but without, the first moment
after it. The newest range has no end, and records without ``createdon`` are a
range of their own, so that every record is in exactly one. A read begins with the
whole as one range, and cuts it once a page shows that the service takes longer to
answer than the answers take to be stored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from dataverse_sync.model import Segment
from dataverse_sync.moments import parse_timestamp

ROWS_PER_SEGMENT = 20_000  # fewer are not worth the requests that a range costs
WORTH_PAGES = 3.0  # left in a range that is halved: its reader asks for a part of one too much
MOST_SEGMENTS = 16  # ranges of one table read at once, unless the user says otherwise
STORED_PER_S = 100e6  # bytes of JSON; a fast machine stores no more


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


def choose_at_once(took_s: float, size: int, most: int) -> int:
    """How many ranges to read at once, so that pages come as fast as they can be stored.

    More would only wait: it is a tenth more CPU where they do, and more for the service.

    Args:
        took_s: How long the pages so far took together, each from its request to its last byte.
        size: Their bytes of JSON.
        most: Never more.
    """
    return max(1, min(most, math.ceil(took_s * STORED_PER_S / max(1, size))))


def split(
    segment: Segment, came: Came | None, newest: datetime, parts: int = 2
) -> Sequence[Segment]:
    """Cut what remains of a range into parts of equal length, fewer where it is too short.

    Args:
        segment: A range that is being read, oldest records first.
        came: What has come of it.
        newest: The end of a range that is open.
        parts: How many, with the range itself, which keeps the first.
    """
    left = came.last if came else parse_timestamp(segment.since)
    end = parse_timestamp(segment.until) or newest
    if left is None or segment.is_null or segment.is_done:
        return [segment]
    step = (end - left) / parts
    cuts = [(left + step * at).replace(microsecond=0) for at in range(1, parts)]
    moments = [format_second(cut) for cut in cuts if left + timedelta(seconds=1) < cut < end]
    since = list(dict.fromkeys(moments))
    if not since:
        return [segment]
    others = zip(since, [*since[1:], segment.until], strict=True)
    return [replace(segment, until=since[0]), *(Segment(*one) for one in others)]


def pages_left(segment: Segment, came: Came | None, newest: datetime) -> float:
    """About how many pages a range still has, if what is left is like what came."""
    if came is None or came.last <= came.first or segment.is_done:
        return 0.0
    left = (parse_timestamp(segment.until) or newest) - came.last
    return came.pages * (left / (came.last - came.first))


def find_cut(
    segments: Sequence[Segment], came: Sequence[Came | None], newest: datetime, room: int
) -> tuple[int, Sequence[Segment]] | None:
    """Which range to cut, and into what, where there is room to read more of them at once.

    That is the whole, once its first page has come, and else the half of the range with
    most pages left; None where none has enough of them.
    """
    for at, segment in enumerate(segments):
        if segment.is_whole and came[at] is not None:
            parts = split(segment, came[at], newest, room + 1)
            return (at, parts) if len(parts) > 1 else None
    found, most = None, WORTH_PAGES
    for at, segment in enumerate(segments):
        left = pages_left(segment, came[at], newest)
        if left >= most and len(parts := split(segment, came[at], newest)) > 1:
            found, most = (at, parts), left
    return found


def format_second(moment: datetime) -> str:
    """A moment as a filter has it, to the second."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
