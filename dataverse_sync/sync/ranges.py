"""Read a large table in ranges of ``createdon``, several at once.

The newest range has no end, and records without ``createdon`` are a range of their own, so
that every record is in exactly one. A read begins with the whole as one range, and cuts it
once a page shows that the service takes longer to answer than the answers take to be stored:
200 pages of 1 s each come in 16 s with 16 ranges, in 202 s as one chain.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import msgspec

from dataverse_sync.dataverse import odata
from dataverse_sync.errors import EntityError, RequestError
from dataverse_sync.model import Page, PageRequest, Range
from dataverse_sync.moments import parse_timestamp
from dataverse_sync.sync.reading import EntityReader, LinkCheck
from dataverse_sync.sync.storing import Progress
from dataverse_sync.sync.ways import REFUSED_QUERY

ROWS_PER_RANGE = 20_000  # fewer are not worth the requests that a range costs
WORTH_PAGES = 3.0  # left before halving pays: the page already asked for is partly thrown away
MOST_RANGES = 16  # of one table read at once, unless the user says otherwise
STORED_PER_S = 100e6  # bytes of JSON; a fast machine stores no more
WHOLE = (Range(), Range(is_null=True))


class DisorderError(EntityError):
    """The service does not send the records of a range in the order that was asked for."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Progress of a range in this run: pages received, first and last ``createdon``."""

    pages: int
    first: datetime
    last: datetime


@dataclass(slots=True)
class Part:
    """A range that is read, and how far it has come."""

    range: Range
    seen: Seen | None = None
    is_asked: bool = False  # a page of it is under way


# Decisions, all pure


def choose_count(rows: int | None, most: int | None) -> int:
    """How many ranges to read at once; 1 means one chain of pages, as where nobody knows ``rows``.

    ``most`` is what ``--segments`` allows.
    """
    if rows is None:
        return 1
    return max(1, min(most or MOST_RANGES, rows // ROWS_PER_RANGE))


def choose_at_once(took_s: float, size: int, most: int) -> int:
    """How many ranges to read at once, so that pages come as fast as they can be stored.

    More would only wait, and cost a tenth more CPU. ``took_s`` and ``size`` are those of all
    pages so far: from request to last byte, and bytes of JSON.
    """
    return max(1, min(most, math.ceil(took_s * STORED_PER_S / max(1, size))))


def split(whole: Range, seen: Seen | None, newest: datetime, parts: int = 2) -> Sequence[Range]:
    """Cut what remains of a range into parts of equal length, fewer if it is too short.

    The range itself keeps the first; ``newest`` is the end of a range that is open.
    """
    left = seen.last if seen else parse_timestamp(whole.since)
    end = parse_timestamp(whole.until) or newest
    if left is None or whole.is_null or whole.is_done:
        return [whole]
    step = (end - left) / parts
    cuts = [(left + step * number).replace(microsecond=0) for number in range(1, parts)]
    moments = [format_second(cut) for cut in cuts if left + timedelta(seconds=1) < cut < end]
    since = list(dict.fromkeys(moments))
    if not since:
        return [whole]
    edges = zip(since, [*since[1:], whole.until], strict=True)
    return [replace(whole, until=since[0]), *(Range(*edge) for edge in edges)]


def pages_left(part: Part, newest: datetime) -> float:
    """About how many pages a range still has, if what is left is like what came."""
    seen = part.seen
    if seen is None or seen.last <= seen.first or part.range.is_done:
        return 0.0
    left = (parse_timestamp(part.range.until) or newest) - seen.last
    return seen.pages * (left / (seen.last - seen.first))


def find_cut(
    parts: Sequence[Part], newest: datetime, room: int
) -> tuple[Part, Sequence[Range]] | None:
    """Which range to cut, and into what, if there is room to read so many more at once.

    That is the whole, once its first page has come, and else the half of the range with
    most pages left; None if none has enough of them.
    """
    for part in parts:
        if part.range.is_whole and part.seen is not None:
            cut = split(part.range, part.seen, newest, room + 1)
            return (part, cut) if len(cut) > 1 else None
    found, most = None, WORTH_PAGES
    for part in parts:
        left = pages_left(part, newest)
        if left >= most and len(cut := split(part.range, part.seen, newest)) > 1:
            found, most = (part, cut), left
    return found


def format_second(moment: datetime) -> str:
    """A moment as a filter has it, to the second."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


# The moments of a page


class _Created(msgspec.Struct):
    createdon: str | None = None


_decode_created = msgspec.json.Decoder(_Created).decode


def find_moments(records: Sequence[msgspec.Raw]) -> list[datetime]:
    """The ``createdon`` of each record; an error if one has none, or they do not rise."""
    try:
        moments = [parse_timestamp(_decode_created(record).createdon) for record in records]
    except msgspec.MsgspecError as error:
        raise DisorderError("createdon is not a moment") from error
    known = [moment for moment in moments if moment is not None]
    if len(known) < len(moments) or known != sorted(known):
        raise DisorderError("createdon does not rise")
    return known


def see_page(page: Page, part: Part) -> tuple[Seen | None, int]:
    """The progress of a range with a page, and how many of its records lie in the range.

    All moments are looked at only if the page reaches beyond the end of its range.
    """
    count = len(page.records)
    if part.range.is_null or not page.records:
        return part.seen, count
    first, last = find_moments((page.records[0], page.records[-1]))
    if part.seen is None:
        seen = Seen(1, first, last)
    elif first < part.seen.last:
        raise DisorderError("createdon does not rise from page to page")
    else:
        seen = replace(part.seen, pages=part.seen.pages + 1, last=last)
    end = parse_timestamp(part.range.until)
    if end is None or last < end:
        return seen, count
    return replace(seen, last=end), bisect.bisect_left(find_moments(page.records), end)


# The reads


class NewestRead:
    """Asks for the newest ``createdon``, so that what is still open has an end to be cut by."""

    def __init__(self, reader: EntityReader) -> None:
        self._reader = reader
        self.moment: datetime | None = None  # None: no record has a createdon

    def begin(self) -> Sequence[PageRequest]:
        name = self._reader.entity.name
        url = odata.build_url(
            self._reader.api_url,
            name,
            select=("createdon",),
            filter=Range().filter,
            orderby="createdon desc",
            top=1,
        )
        return [PageRequest(name, url, top=True)]

    def follow(self, _page: Page) -> Sequence[PageRequest]:
        return []

    def store(self, page: Page) -> None:
        self.moment = next(iter(find_moments(page.records)), None)

    def refused(self, error: RequestError) -> Sequence[PageRequest]:
        raise error


class RangesRead:
    """Reads ranges side by side, oldest records first in each.

    As many at once as it takes for pages to come as fast as they can be stored, ``most`` at
    most; a resumed read starts with as many as were begun. If one has ended and another has
    much left, the later half of that is read too. A range whose end was moved forward stops
    at the first record beyond.
    """

    def __init__(
        self,
        reader: EntityReader,
        progress: Progress,
        ranges: Sequence[Range],
        most: int,
        newest: datetime,
    ) -> None:
        self._reader = reader
        self._progress = progress
        self._parts = [Part(one) for one in ranges]
        self._asked: dict[PageRequest, Part] = {}
        self._links = LinkCheck()
        self._most = most
        self._newest = newest
        begun = sum(one.next_link is not None for one in ranges)
        self._at_once = max(1, min(most, begun))
        self._took_s, self._size = 0.0, 0  # of all pages: one that is late by chance is not slow
        self._inside = 0  # records of the page that was just followed

    def begin(self) -> Sequence[PageRequest]:
        return self._ask_more()

    def follow(self, page: Page) -> Sequence[PageRequest]:
        part = self._asked.pop(page.request)
        part.is_asked = False
        part.seen, self._inside = see_page(page, part)
        # Cut first: the link of a page that reaches into the next range may be that one's.
        link = page.next_link if self._inside == len(page.records) else None
        self._links.check(replace(page, next_link=link))
        number = page.request.number + 1
        part.range = replace(part.range, next_link=link, page=number, is_done=link is None)
        if page.requests == 1:  # else it waited, perhaps because it was too much already
            self._took_s, self._size = self._took_s + page.took_s, self._size + page.size
        enough = choose_at_once(self._took_s, self._size, self._most)
        self._at_once = max(self._at_once, enough)
        return self._ask_more()

    def store(self, page: Page) -> None:
        if self._inside < len(page.records):
            page = replace(page, records=page.records[: self._inside])
        self._progress.store(page)
        if all(part.range.is_done for part in self._parts):
            self._progress.complete()
        else:
            self._progress.save(ranges=tuple(part.range for part in self._parts))

    def refused(self, error: RequestError) -> Sequence[PageRequest]:
        """Ask for a smaller page; a first page is read plainer before that, by another read."""
        request = error.request
        assert request is not None  # noqa: S101  the client says it of every page
        if request.number <= 1 and error.status in REFUSED_QUERY:
            raise error
        smaller = self._reader.ask_smaller(request, error)
        self._asked[smaller] = self._asked.pop(request)
        return [smaller]

    def _ask_more(self) -> list[PageRequest]:
        """Ask for the next page of ranges that wait, and of parts of others while there is room."""
        requests = []
        while len(self._asked) < self._at_once:
            waiting = (p for p in self._parts if not p.is_asked and not p.range.is_done)
            part = next(waiting, None)
            if part is None:
                found = find_cut(self._parts, self._newest, self._at_once - len(self._asked))
                if found is None:
                    break
                cut, (first, *others) = found
                cut.range = first
                self._parts += [Part(one) for one in others]
                continue
            request = self._build_request(part.range)
            self._asked[request] = part
            part.is_asked = True
            requests.append(request)
        return requests

    def _build_request(self, part: Range) -> PageRequest:
        entity, url, number = self._reader.entity, part.next_link, part.page
        if url is None:
            order = entity.key if part.is_null else f"createdon,{entity.key}"
            api_url = self._reader.api_url
            url = odata.build_url(api_url, entity.name, filter=part.filter, orderby=order)
            number = 1
        return PageRequest(
            entity.name,
            url,
            number,
            size=self._reader.way.page_size,
            names_targets=self._reader.names_targets,
        )
