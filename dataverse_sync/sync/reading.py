"""A read: queries of one entity, asked side by side, each followed to its last page.

The page loop asks a read what to begin with, and for each page what follows, and then hands
it the page to store. What a page is stored as is for the kinds of reads that derive from
``QueryRead``: records (``storing``), keys and versions (``comparing``). Ranges of a large
table are a kind of their own (``ranges``).
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import chain
from typing import Protocol

from dataverse_sync.config import MAX_PAGE_SIZE
from dataverse_sync.dataverse import odata
from dataverse_sync.errors import EntityError, PageError, RequestError
from dataverse_sync.model import Entity, Page, PageRequest
from dataverse_sync.sync.ways import BEST, Kind, Way, next_way

log = logging.getLogger(__name__)

EMPTY_PAGES = 1000  # in a row, each with a next link: such links never end


class Read(Protocol):
    """What the page loop asks of a read, in this order."""

    def begin(self) -> Sequence[PageRequest]:
        """The first requests."""

    def follow(self, page: Page) -> Sequence[PageRequest]:
        """What to ask for after a page, which is not stored yet; an error means it will not be."""

    def store(self, page: Page) -> None:
        """Store the page that was just followed, in one transaction; all of it, or raise."""

    def refused(self, error: RequestError) -> Sequence[PageRequest]:
        """What to ask instead of a request that failed; raises the error if nothing."""


# The reads of an entity, one after the other. An error that ends a read is raised where the read
# was yielded: what catches it goes on with another read, what does not fails the entity.
Reads = Generator[Read, None, None]


@dataclass(frozen=True, slots=True)
class Query:
    """A question that has an answer of one or more pages."""

    select: tuple[str, ...] = ()
    filter: str = ""
    ids: tuple[str, ...] = ()  # instead of a filter: records by id, guids alone
    track_changes: bool = False

    @property
    def kind(self) -> Kind:
        """What of it a service may refuse."""
        if self.track_changes:
            return "tracked"
        if self.ids:
            return "ids"
        return "since" if self.filter else "thin" if self.select else "whole"


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a request asks for, and how."""

    query: Query | None  # None: a link that an earlier run kept
    way: Way

    @property
    def kind(self) -> Kind:
        return "kept" if self.query is None else self.query.kind


class EntityReader:
    """Builds the requests of one entity in one run, and counts what came of them."""

    def __init__(
        self, entity: Entity, api_url: str, way: Way = BEST, page_size: int = MAX_PAGE_SIZE
    ) -> None:
        self.entity = entity
        self.api_url = api_url
        self.requests = 0  # HTTP requests so far
        self.first_request_at: datetime | None = None  # by the server's clock
        self.way = way  # how the next request is asked
        self.proven = way  # the way of what was answered last
        self._page_size = page_size
        self._orders = odata.orders(entity)
        self._has_open_lookups = bool(entity.open_lookups)
        self._answered_order = -1

    @property
    def keys_and_versions(self) -> tuple[str, ...]:
        """The columns of a thin read: the key, and what tells two versions apart."""
        version = self.entity.version_column
        return (self.entity.key, version) if version else (self.entity.key,)

    @property
    def names_targets(self) -> bool:
        """Whether whole records are asked for with the table that each lookup points to."""
        return self._has_open_lookups and self.way.targets

    def by_id(self, ids: Sequence[str], select: tuple[str, ...] = ()) -> list[Query]:
        """Queries for records by id, in batches; ids that are not GUIDs are left out."""
        guids = [key for key in ids if odata.is_guid(key)]
        return [Query(select, ids=tuple(batch)) for batch in odata.iter_batches(guids)]

    def count(self, answer: Page | EntityError) -> None:
        """Count the HTTP requests of an answer, also of one that nobody needs any more."""
        self.requests += answer.requests
        if isinstance(answer, Page) and answer.asked_at is not None:
            self.first_request_at = min(self.first_request_at or answer.asked_at, answer.asked_at)

    def build_requests(
        self, queries: Iterable[Query], *, is_trial: bool = False
    ) -> dict[PageRequest, _Asked]:
        """The first page of each query, by the way that the service accepts so far."""
        return {
            self._build_request(query, is_trial): _Asked(query, self.way)
            for query in chain.from_iterable(map(self._spread, queries))
        }

    def _spread(self, query: Query) -> Sequence[Query]:
        """A query for ids as the service takes it: as it is, one for each id, or for all."""
        if not query.ids or self.way.ids == "many":
            return [query]
        if self.way.ids == "single":
            return [replace(query, ids=(record_id,)) for record_id in query.ids]
        return [Query()]

    def _build_request(self, query: Query, is_trial: bool) -> PageRequest:
        name, url = self.entity.name, self.api_url
        filter_ = odata.any_of(self.entity.key, query.ids) if query.ids else query.filter
        order = "" if query.track_changes else self._orders[self.way.order]
        return PageRequest(
            name,
            odata.build_url(url, name, select=query.select, filter=filter_, orderby=order),
            track_changes=query.track_changes,
            keys_only=bool(query.select),
            names_targets=self.names_targets and not query.select,
            size=self.way.page_size,
            retries=1 if is_trial else None,
        )

    def note_answer(self, asked: _Asked) -> None:
        """Remember that this way was answered."""
        self.proven = asked.way if asked.way == self.way else self.proven
        if asked.kind not in ("tracked", "kept"):
            self._answered_order = asked.way.order

    def ask_smaller(self, request: PageRequest, error: RequestError) -> PageRequest:
        """The same page with half as many records, if it may be too heavy; or raises the error."""
        way = next_way(self.way, "kept", error, orders=0, size=request.size or self._page_size)
        if way is None:
            self.way = self.proven
            raise error
        log.info("%s: asked for %d records a page", self.entity.name, way.page_size)
        self.way = way
        return replace(request, size=way.page_size, retries=1)

    def ask_differently(self, asked: _Asked, error: RequestError) -> dict[PageRequest, _Asked]:
        """What to ask instead of a request that failed, by the next plainer way.

        Raises the error if there is none, or if another kind of read has to follow.
        """
        request = error.request
        assert request is not None  # noqa: S101  the client says it of every page
        if asked.way == self.way:
            way = next_way(
                self.way,
                asked.kind,
                error,
                orders=len(self._orders),
                size=request.size or self._page_size,
                is_proven=self._answered_order == self.way.order,
            )
            if way is None:
                tells_nothing = asked.kind in ("tracked", "kept")
                kept = replace(self.way, page_size=self.proven.page_size)
                self.way = kept if tells_nothing else self.proven
                raise error
            log.info("%s: asked differently: %s", self.entity.name, "; ".join(way.describe()))
            self.way = way
        query, way = asked.query, self.way
        if (asked.kind == "since" and not way.since) or (asked.kind == "thin" and not way.versions):
            raise error
        is_same_query = way.order == asked.way.order and way.targets == asked.way.targets
        if way.page_size != asked.way.page_size and is_same_query:
            smaller = replace(request, size=way.page_size, retries=1)
            return {smaller: replace(asked, way=way)}
        if query is None:
            raise error
        return self.build_requests([query], is_trial=True)


class QueryRead(ABC):
    """Reads queries side by side, in any order; what a page is stored as is left open.

    ``kept`` is a link that an earlier run kept, in place of queries: sent back as it is.
    """

    def __init__(
        self,
        reader: EntityReader,
        queries: Sequence[Query] = (),
        kept: PageRequest | None = None,
    ) -> None:
        self._reader = reader
        self._queries = queries
        self._kept = kept
        self._asked: dict[PageRequest, _Asked] = {}
        self._is_read_whole = False
        self._links = LinkCheck()

    def begin(self) -> Sequence[PageRequest]:
        asked = self._reader.build_requests(self._queries)
        self._is_read_whole = any(how.kind == "whole" for how in asked.values())
        if self._kept is not None:
            way = self._reader.way
            named = self._reader.names_targets and not self._kept.keys_only
            kept = replace(self._kept, size=way.page_size, names_targets=named)
            asked[kept] = _Asked(None, way)
        return self._ask(asked)

    def follow(self, page: Page) -> Sequence[PageRequest]:
        asked = self._asked.pop(page.request)
        self._links.check(page)
        self._reader.note_answer(asked)
        if (following := page.next_request) is None:
            return []
        return self._ask({following: asked})

    @abstractmethod
    def store(self, page: Page) -> None: ...

    def refused(self, error: RequestError) -> Sequence[PageRequest]:
        """Ask for the same in the next plainer way."""
        assert error.request is not None  # noqa: S101  the client says it of every page
        asked = self._asked.pop(error.request)
        different = self._reader.ask_differently(asked, error)
        if asked.kind == "ids" and self._reader.way.ids == "none":
            # One read of everything takes the place of all queries by id.
            different = {} if self._is_read_whole else different
            self._is_read_whole = True
        if error.request.number > 1 and any(request.number == 1 for request in different):
            self.begin_again()
        return self._ask(different)

    def begin_again(self) -> None:  # noqa: B027  some have nothing to forget
        """Forget how far the read has come: it is asked for from its first page again."""

    def _ask(self, asked: dict[PageRequest, _Asked]) -> Sequence[PageRequest]:
        self._asked.update(asked)
        return list(asked)


class SideBySide:
    """A read, and at its side another one, which ends by itself: its failure is kept."""

    def __init__(self, read: Read, other: Read) -> None:
        self._read = read
        self._other = other
        self._others: set[PageRequest] = set()  # what the other one has asked for
        self.failure: EntityError | None = None

    def begin(self) -> Sequence[PageRequest]:
        return [*self._read.begin(), *self._ask_other(self._other.begin)]

    def follow(self, page: Page) -> Sequence[PageRequest]:
        if page.request in self._others:
            return self._ask_other(lambda: self._other.follow(page))
        return self._read.follow(page)

    def store(self, page: Page) -> None:
        if page.request not in self._others:
            self._read.store(page)
        elif self.failure is None:
            with self._keeping_failure():
                self._other.store(page)

    def refused(self, error: RequestError) -> Sequence[PageRequest]:
        if error.request in self._others:
            return self._ask_other(lambda: self._other.refused(error))
        return self._read.refused(error)

    def _ask_other(self, ask: Callable[[], Sequence[PageRequest]]) -> Sequence[PageRequest]:
        requests: Sequence[PageRequest] = []
        if self.failure is None:
            with self._keeping_failure():
                requests = ask()
        self._others.update(requests)
        return requests

    @contextmanager
    def _keeping_failure(self) -> Iterator[None]:
        try:
            yield
        except EntityError as error:
            self.failure = error


class LinkCheck:
    """Sees whether the links of a read lead on."""

    def __init__(self) -> None:
        self._followed: set[int] = set()  # by their hashes
        self._empty_pages = 0

    def check(self, page: Page) -> None:
        """Raise a ``PageError`` if a link leads in a circle, or empty pages do not end."""
        if page.next_link is None:
            return
        self._empty_pages = 0 if page.records else self._empty_pages + 1
        if self._empty_pages > EMPTY_PAGES:
            raise PageError(
                f"{page.request}: {EMPTY_PAGES} pages in a row held no record",
                "The service sends next links without end; run again later, or report it.",
            )
        if hash(page.next_link) in self._followed:
            raise PageError(
                f"{page.request}: the next link leads back to a page already read",
                "The service would be read in a circle; run again later.",
            )
        self._followed.add(hash(page.next_link))
