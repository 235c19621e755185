"""Ask for the pages of one entity: queries side by side, each to its last page.

Knows the orders that a service may refuse, links that lead in a circle, and
batches of ids; not what is done with a page.
"""

from __future__ import annotations

import bisect
import logging
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import msgspec

from dataverse_sync.dataverse import odata
from dataverse_sync.errors import EntityError, PageError, RequestError
from dataverse_sync.model import Entity, Page, PageRequest, Segment
from dataverse_sync.moments import parse_timestamp
from dataverse_sync.sync import ranges as segments
from dataverse_sync.sync.page_loop import Ahead, Steps, Wanted
from dataverse_sync.sync.ranges import Came

log = logging.getLogger(__name__)

EMPTY_PAGES = 1000  # in a row; more is no table but a circle
REFUSED_QUERY = (400, 501)

Store = Callable[[Page], None]
StoreRange = Callable[[Page, Sequence[Segment]], None]


class DisorderError(Exception):
    """The service does not send the records of a range in the order that was asked for."""


@dataclass(frozen=True, slots=True)
class Query:
    """A question that has an answer of one or more pages."""

    store: Store
    select: tuple[str, ...] = ()
    filter: str = ""
    track_changes: bool = False
    order: int = 0  # which of the orders it is asked with, the best first


class EntityReader:
    """Reads one entity in one run.

    Args:
        entity: What is read.
        api_url: The root of the Web API, with its last slash.
    """

    def __init__(self, entity: Entity, api_url: str) -> None:
        self.entity = entity
        self.requests = 0  # HTTP requests so far
        self.first_request_at: datetime | None = None  # by the server's clock
        self._api_url = api_url
        self._orders = odata.orders(entity)
        self._refused = 0  # how many of the orders the service has refused

    @property
    def thin(self) -> tuple[str, ...]:
        """The columns of a thin read: the key, and what tells two versions apart."""
        version = self.entity.version_column
        return (self.entity.key, version) if version else (self.entity.key,)

    def by_id(self, ids: Sequence[str], store: Store, select: tuple[str, ...] = ()) -> list[Query]:
        """Queries for records by id, in batches; ids that are no GUIDs are left out."""
        guids = [key for key in ids if odata.is_guid(key)]
        return [
            Query(store, select, odata.any_of(self.entity.key, batch))
            for batch in odata.iter_batches(guids)
        ]

    def read(self, queries: Sequence[Query]) -> Steps:
        """Read queries to their ends, in any order; each page goes to its query's ``store``.

        Raises:
            RequestError: The service refused, also in every other order.
            PageError: A link leads in a circle, or pages without records do not end.
        """
        asked = [replace(query, order=self._refused) for query in queries]
        yield from self._read({self._request(query): query for query in asked})

    def follow(self, link: PageRequest, store: Store) -> Steps:
        """Go on from a link that was kept, as it came; raises what ``read`` raises."""
        yield from self._read({link: Query(store, track_changes=True)})

    def find_newest(self) -> Generator[Wanted, Page, datetime | None]:
        """The newest ``createdon``; None where there is none.

        Raises:
            RequestError: The service refused to filter or to order by it.
            DisorderError: It sent something else than a moment.
        """
        url = odata.build_url(
            self._api_url,
            self.entity.name,
            select=("createdon",),
            filter=Segment().filter,
            orderby="createdon desc",
            top=1,
        )
        page = yield [PageRequest(self.entity.name, url, top=True)]
        self._note(page)
        return next(iter(_find_moments(page.records)), None)

    def read_segments(
        self,
        ranges: Sequence[Segment],
        most: int,
        newest: datetime,
        store: StoreRange,
    ) -> Steps:
        """Read ranges of ``createdon`` side by side, oldest records first in each.

        As many as the service is slower than the storing, and no fewer than were begun. Where
        one has ended and another has much left, it takes the later half of it. A range whose
        end was moved forward stops at the first record beyond.

        Args:
            ranges: Those to read, some of them perhaps begun or done.
            most: How many to read at once at most.
            newest: About the end of the range that is open.
            store: Told each page, and how far all ranges have come with it.

        Raises:
            RequestError: The service refused; no other page of them is under way any more.
            DisorderError: It does not send the records in order; as above.
            PageError: A link leads in a circle, or pages without records do not end.
        """
        ranges = list(ranges)
        came: list[Came | None] = [None] * len(ranges)
        asked: dict[PageRequest, int] = {}
        links = _Links()
        begun = sum(one.next_link is not None for one in ranges)
        at_once = max(1, min(most, begun))
        took_s, size = 0.0, 0  # of all pages: one that is late by chance is no slow service
        yield Ahead(self._start_ranges(ranges, came, asked, at_once, newest))
        while asked:
            try:
                page = yield []
                self._note(page)
                at = asked.pop(page.request)
                # Cut first: the link of a page that reaches into the next range may be that one's.
                page, came[at] = _cut_page(page, ranges[at], came[at])
            except (RequestError, DisorderError) as error:
                yield from self._wait_for(len(asked) - isinstance(error, RequestError))
                raise
            links.check(page)
            ranges[at] = replace(
                ranges[at],
                next_link=page.next_link,
                page=page.request.number + 1,
                is_done=page.next_link is None,
            )
            if page.requests == 1:  # else it waited, perhaps because it was too much already
                took_s, size = took_s + page.took_s, size + page.size
            at_once = max(at_once, segments.choose_at_once(took_s, size, most))
            yield Ahead(self._start_ranges(ranges, came, asked, at_once, newest))
            store(page, ranges)
            del page  # a name kept on it would hold its memory until the next one comes

    def _wait_for(self, answers: int) -> Steps:
        """Let what is still under way come, so that no read that follows is handed it."""
        for _ in range(answers):
            try:
                page = yield []
                self._note(page)
                del page
            except EntityError as error:
                self.requests += error.requests

    def _start_ranges(
        self,
        ranges: list[Segment],
        came: list[Came | None],
        asked: dict[PageRequest, int],
        at_once: int,
        newest: datetime,
    ) -> list[PageRequest]:
        """Ask for the next page of ranges that wait, and of parts of others while there is room."""
        new = []
        while len(asked) < at_once:
            running = set(asked.values())
            waiting = (at for at, one in enumerate(ranges) if at not in running and not one.is_done)
            at = next(waiting, None)
            if at is None:
                found = segments.find_cut(ranges, came, newest, at_once - len(asked))
                if found is None:
                    break
                cut, (ranges[cut], *others) = found
                at = len(ranges)
                ranges += others
                came += [None] * len(others)
            request = self._range_request(ranges[at])
            asked[request] = at
            new.append(request)
        return new

    def _range_request(self, segment: Segment) -> PageRequest:
        if segment.next_link is not None:
            return PageRequest(self.entity.name, segment.next_link, segment.page)
        order = self.entity.key if segment.is_null else f"createdon,{self.entity.key}"
        url = odata.build_url(self._api_url, self.entity.name, filter=segment.filter, orderby=order)
        return PageRequest(self.entity.name, url)

    def _note(self, page: Page) -> None:
        self.requests += page.requests
        if self.first_request_at is None:
            self.first_request_at = page.asked_at

    def _request(self, query: Query) -> PageRequest:
        url = odata.build_url(
            self._api_url,
            self.entity.name,
            select=query.select,
            filter=query.filter,
            orderby="" if query.track_changes else self._orders[query.order],
        )
        return PageRequest(
            self.entity.name,
            url,
            track_changes=query.track_changes,
            keys_only=bool(query.select),
        )

    def _read(self, asked: dict[PageRequest, Query]) -> Steps:
        new = list(asked)
        links = _Links()
        while asked:
            try:
                page = yield new
            except RequestError as error:
                new = self._ask_differently(error, asked)
                continue
            except PageError as error:
                self.requests += error.requests
                raise
            self._note(page)
            if page.request not in asked:  # of a read that was given up
                new = []
                continue
            query = asked.pop(page.request)
            links.check(page)
            new = []
            if (following := page.next_request) is not None:
                asked[following] = query
                yield Ahead([following])
            query.store(page)
            del page  # a name kept on it would hold its memory until the next one comes

    def _ask_differently(
        self, error: RequestError, asked: dict[PageRequest, Query]
    ) -> list[PageRequest]:
        """The same question in the next best order, where it was the order that was refused."""
        self.requests += error.requests
        request = error.request
        if not isinstance(request, PageRequest):
            raise error
        if request not in asked:  # of a read that was given up
            return []
        if error.status not in REFUSED_QUERY:
            raise error
        query = asked.pop(request)
        if query.track_changes or request.number > 1 or query.order + 1 == len(self._orders):
            raise error
        log.info(
            "%s: order %r refused, trying the next", self.entity.name, self._orders[query.order]
        )
        query = replace(query, order=query.order + 1)
        self._refused = max(self._refused, query.order)
        again = self._request(query)
        asked[again] = query
        return [again]


class _Links:
    """Sees whether the links of a read lead on."""

    def __init__(self) -> None:
        self._followed: set[int] = set()  # by their hashes
        self._empty_pages = 0

    def check(self, page: Page) -> None:
        """Note a page.

        Raises:
            PageError: Its link leads in a circle, or pages without records do not end.
        """
        self._empty_pages = 0 if page.records else self._empty_pages + 1
        if self._empty_pages > EMPTY_PAGES:
            raise PageError(
                f"{page.request}: {EMPTY_PAGES} pages in a row held no record",
                "The service sends next links without end; run again later, or report it.",
            )
        if page.next_link is None:
            return
        if hash(page.next_link) in self._followed:
            raise PageError(
                f"{page.request}: the next link leads back to a page already read",
                "The service would be read in a circle; run again later.",
            )
        self._followed.add(hash(page.next_link))


class _Created(msgspec.Struct):
    createdon: str | None = None


_decode_created = msgspec.json.Decoder(_Created).decode


def _find_moments(records: Sequence[msgspec.Raw]) -> list[datetime]:
    """The ``createdon`` of each record.

    Raises:
        DisorderError: One has none, or they do not rise.
    """
    try:
        moments = [parse_timestamp(_decode_created(one).createdon) for one in records]
    except msgspec.MsgspecError as error:
        raise DisorderError from error
    known = [moment for moment in moments if moment is not None]
    if len(known) < len(moments) or known != sorted(known):
        raise DisorderError
    return known


def _cut_page(page: Page, segment: Segment, came: Came | None) -> tuple[Page, Came | None]:
    """Leave out what lies beyond the end of a range, which then has no next page.

    All moments of a page are looked at only where it is cut: nothing of another is left out.

    Returns:
        The page, and what has come of the range with it.

    Raises:
        DisorderError: The moments do not rise.
    """
    if segment.is_null or not page.records:
        return page, came
    first, last = _find_moments((page.records[0], page.records[-1]))
    if came is None:
        came = Came(1, first, last)
    elif first < came.last:
        raise DisorderError
    else:
        came = replace(came, pages=came.pages + 1, last=last)
    end = parse_timestamp(segment.until)
    if end is None or last < end:
        return page, came
    inside = bisect.bisect_left(_find_moments(page.records), end)
    return replace(page, records=page.records[:inside], next_link=None), replace(came, last=end)
