"""A read: queries of one entity, asked side by side, each followed to its last page.

The page loop asks a read what to begin with, and for each page what follows, and then hands
it the page to store. What a page is stored as is for the kinds of reads that derive from
``QueryRead``: records (``storing``), keys and versions (``comparing``). Ranges of a large
table are a kind of their own (``ranges``).
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from dataverse_sync.dataverse import odata
from dataverse_sync.errors import EntityError, PageError, RequestError
from dataverse_sync.model import Entity, Page, PageRequest

log = logging.getLogger(__name__)

EMPTY_PAGES = 1000  # in a row, each with a next link: such links never end
REFUSED_QUERY = (400, 501)


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
    track_changes: bool = False
    order: int = 0  # which of the orders it is asked with, the best first


class EntityReader:
    """Builds the requests of one entity in one run, and counts what came of them."""

    def __init__(self, entity: Entity, api_url: str) -> None:
        self.entity = entity
        self.api_url = api_url
        self.requests = 0  # HTTP requests so far
        self.first_request_at: datetime | None = None  # by the server's clock
        self._orders = odata.orders(entity)
        self._refused = 0  # how many of the orders the service has refused

    @property
    def keys_and_versions(self) -> tuple[str, ...]:
        """The columns of a thin read: the key, and what tells two versions apart."""
        version = self.entity.version_column
        return (self.entity.key, version) if version else (self.entity.key,)

    def by_id(self, ids: Sequence[str], select: tuple[str, ...] = ()) -> list[Query]:
        """Queries for records by id, in batches; ids that are not GUIDs are left out."""
        guids = [key for key in ids if odata.is_guid(key)]
        return [
            Query(select, odata.any_of(self.entity.key, batch))
            for batch in odata.iter_batches(guids)
        ]

    def count(self, answer: Page | EntityError) -> None:
        """Count the HTTP requests of an answer, also of one that nobody needs any more."""
        self.requests += answer.requests
        if isinstance(answer, Page) and answer.asked_at is not None:
            self.first_request_at = min(self.first_request_at or answer.asked_at, answer.asked_at)

    def start(self, queries: Sequence[Query]) -> dict[PageRequest, Query]:
        """The first page of each query, in the best order that was not refused so far."""
        asked = [replace(query, order=self._refused) for query in queries]
        return {self.build_request(query): query for query in asked}

    def build_request(self, query: Query) -> PageRequest:
        url = odata.build_url(
            self.api_url,
            self.entity.name,
            select=query.select,
            filter=query.filter,
            orderby="" if query.track_changes else self._orders[query.order],
        )
        keys_only = bool(query.select)
        return PageRequest(
            self.entity.name, url, track_changes=query.track_changes, keys_only=keys_only
        )

    def ask_differently(self, query: Query, error: RequestError) -> Query:
        """The same query in the next best order; raises the error if there is none."""
        if query.track_changes or query.order + 1 == len(self._orders):
            raise error
        refused = self._orders[query.order]
        log.info("%s: order %r refused, trying the next", self.entity.name, refused)
        query = replace(query, order=query.order + 1)
        self._refused = max(self._refused, query.order)
        return query


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
        self._asked: dict[PageRequest, Query | None] = {}
        self._links = LinkCheck()

    def begin(self) -> Sequence[PageRequest]:
        self._asked = {**self._reader.start(self._queries)}
        if self._kept is not None:
            self._asked[self._kept] = None
        return list(self._asked)

    def follow(self, page: Page) -> Sequence[PageRequest]:
        query = self._asked.pop(page.request)
        self._links.check(page)
        if (following := page.next_request) is None:
            return []
        self._asked[following] = query
        return [following]

    @abstractmethod
    def store(self, page: Page) -> None: ...

    def refused(self, error: RequestError) -> Sequence[PageRequest]:
        """Ask the same in the next best order, if the order may be what was refused."""
        assert error.request is not None  # noqa: S101  the client says it of every page
        query = self._asked.pop(error.request)
        if query is None or error.status not in REFUSED_QUERY or error.request.number > 1:
            raise error
        query = self._reader.ask_differently(query, error)
        request = self._reader.build_request(query)
        self._asked[request] = query
        return [request]


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
