"""Ask for the pages of one entity: queries side by side, each to its last page.

Knows the orders that a service may refuse, links that lead in a circle, and
batches of ids; not what is done with a page.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from dataverse_sync import odata
from dataverse_sync.errors import PageError, RequestError
from dataverse_sync.model import Entity, Page, PageRequest
from dataverse_sync.pages import Steps

log = logging.getLogger(__name__)

EMPTY_PAGES = 1000  # in a row; more is no table but a circle
REFUSED_QUERY = (400, 501)

Store = Callable[[Page], None]


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

    def _request(self, query: Query) -> PageRequest:
        url = odata.build_url(
            self._api_url,
            self.entity.name,
            select=query.select,
            filter=query.filter,
            orderby="" if query.track_changes else self._orders[query.order],
        )
        return PageRequest(self.entity.name, url, track_changes=query.track_changes)

    def _read(self, asked: dict[PageRequest, Query]) -> Steps:
        new = list(asked)
        followed: set[int] = set()  # hashes of the links, to see a circle
        empty_pages = 0
        while asked:
            try:
                page = yield new
            except RequestError as error:
                new = [self._ask_differently(error, asked)]
                continue
            self.requests += page.requests
            if self.first_request_at is None:
                self.first_request_at = page.asked_at
            query = asked.pop(page.request)
            empty_pages = 0 if page.records else empty_pages + 1
            if empty_pages > EMPTY_PAGES:
                raise PageError(
                    f"{page.request}: {EMPTY_PAGES} pages in a row held no record",
                    "The service sends next links without end; run again later.",
                )
            new = []
            if (following := page.next_request) is not None:
                if hash(following.url) in followed:
                    raise PageError(
                        f"{page.request}: the next link leads back to a page already read",
                        "The service would be read in a circle; run again later.",
                    )
                followed.add(hash(following.url))
                asked[following] = query
                new = [following]
            query.store(page)
            del page  # a name kept on it would hold its memory until the next one comes

    def _ask_differently(self, error: RequestError, asked: dict[PageRequest, Query]) -> PageRequest:
        """The same question in the next best order, where it was the order that was refused."""
        self.requests += error.requests
        request = error.request
        if error.status not in REFUSED_QUERY or not isinstance(request, PageRequest):
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
        return again
