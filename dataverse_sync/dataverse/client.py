"""Read from Dataverse: a page, an answer of metadata, counts, from any thread.

Bounds how many bytes of pages are held at once, and notes at which moment, by the server's
clock, a page was asked for.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any
from urllib.parse import quote

import msgspec
import requests

from dataverse_sync.config import Config
from dataverse_sync.dataverse import bodies, definitions, odata
from dataverse_sync.dataverse.auth import Auth
from dataverse_sync.dataverse.service import Reply, Service
from dataverse_sync.dataverse.transport import Answer, BrokenBodyError, Transport, read_answer
from dataverse_sync.errors import PageError
from dataverse_sync.model import Page, PageRequest
from dataverse_sync.redaction import Redactor

_WIDE_PAGE = 24 * 2**20  # bytes, expected if nothing is known: 5,000 rows of 180 columns
_ANSWER_LIMIT = 64 * 2**20  # bytes of an answer that is not a page
_DEFINITIONS_AT_ONCE = 100  # entity sets in one request


class DataverseClient:
    """Reads from one environment; safe to call from any thread.

    Args:
        config: Where the API is, and how large a page may be.
        transport: What requests go through.
        auth: Where tokens come from.
        redactor: Takes secrets out of the service's own words.
        clock: Seconds that only go forward.
        now: The local wall clock, used only if the service sends no ``Date``.
    """

    def __init__(
        self,
        config: Config,
        transport: Transport,
        auth: Auth,
        redactor: Redactor,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.api_url = config.api_url
        self._page_size = config.page_size
        self._service = Service(config.api_url, transport, auth, redactor, clock)
        self._clock = clock
        self._now = now
        self._budget = bodies.PageBudget()
        self._sizes: dict[tuple[str, bool, bool], int] = {}  # kind of page → bytes of its last
        self._lock = threading.Lock()
        self.bytes_read = 0

    @property
    def waited_s(self) -> float:
        """For how long the gate was closed by throttling so far."""
        return self._service.throttle.waited_s

    def get_page(self, request: PageRequest) -> Page:
        """Read one page of an entity; hand it back with ``release`` once it is stored.

        Args:
            request: What to read: a query, or a next link, sent back as it came.

        Returns:
            Up to 5,000 records in the server's order, each with the bytes it came
            as, and the link to the page after them.

        Raises:
            RequestError: The service refused, or five retries did not help. A read
                waits 150 s for data; a 429, as long as ``Retry-After`` says.
            PageError: The answer is not a page of records.

        Source: learn.microsoft.com, "Page results using OData".
        """
        prefer = [] if request.top else [f"odata.maxpagesize={self._page_size}"]
        if request.track_changes:
            prefer.insert(0, "odata.track-changes")
        kind = request.entity, request.keys_only, request.top
        page = self._get(request, odata.parse_page, ",".join(prefer), self._sizes.get(kind))
        self._sizes[kind] = max(page.size, 2**16)
        if page.next_link is None:
            return page
        try:
            return replace(page, next_link=odata.follow(page, page.next_link))
        except PageError:
            self.release(page)
            raise

    def release(self, page: Page) -> None:
        """Make room for another page."""
        self._budget.release(page.size)

    def get_sample(self, entity_set: str) -> dict[str, Any] | None:
        """The first record of an entity set, decoded; None if it is empty.

        Raises:
            RequestError: The service refused.
            PageError: The answer is not a page of records.
        """
        url = odata.build_url(self.api_url, entity_set, top=1)
        page = self.get_page(PageRequest(entity_set, url, top=True))
        self.release(page)
        if not page.records:
            return None
        record = _decode(page.records[0], f"{entity_set}, the first record")
        if not isinstance(record, dict):
            raise PageError(f"{entity_set}: the first record is not an object")
        return record

    def get_definitions(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """The EntityDefinitions of these entity sets; sets that it does not know are left out.

        Raises:
            RequestError: The service refused, or gave no answer.
            PageError: The answer is not one of metadata.
        """
        found: list[dict[str, Any]] = []
        for start in range(0, len(names), _DEFINITIONS_AT_ONCE):
            found += self.get_metadata(
                "EntityDefinitions",
                select=definitions.DEFINITION_SELECT,
                filter=definitions.definitions_filter(names[start : start + _DEFINITIONS_AT_ONCE]),
                expand=definitions.DEFINITION_EXPAND,
            )
        return found

    def get_metadata(
        self, path: str, *, select: Sequence[str] = (), filter: str = "", expand: str = ""
    ) -> list[dict[str, Any]]:
        """The elements of one metadata answer, decoded; such answers are never paged.

        Args:
            path: Below the API root, such as ``EntityDefinitions`` or
                ``EntityDefinitions(LogicalName='account')/Attributes/Microsoft.Dynamics.CRM...``.
            select: Properties; all if empty.
            filter: Equality of properties and enums; functions are refused.
            expand: Attributes, relationships; with a cast, option sets.

        Raises:
            RequestError: The service refused, or gave no answer.
            PageError: The answer is not one of metadata.

        Source: learn.microsoft.com, "Query table definitions using the Web API".
        """
        url = odata.build_url(self.api_url, path, select=select, filter=filter, expand=expand)
        request = PageRequest(path.partition("/")[0], url, number=0)
        page = self._get(request, odata.parse_page)
        self.release(page)
        return [_decode(record, str(request)) for record in page.records]

    def get_counts(self, logical_names: Sequence[str]) -> dict[str, int]:
        """About how many records each table holds, by logical name; up to a day old.

        Raises:
            RequestError: The service refused.
            PageError: The answer holds no counts.

        Source: learn.microsoft.com, "RetrieveTotalRecordCount function".
        """
        function = "RetrieveTotalRecordCount"
        names = quote(json.dumps(list(logical_names), separators=(",", ":")))
        url = f"{self.api_url}{function}(EntityNames={names})"
        request = PageRequest(function, url, number=0)
        page = self._get(request, odata.parse_document)
        self.release(page)
        try:
            counts = json.loads(bytes(page.records[0]))["EntityRecordCountCollection"]
            return {
                name: int(count)
                for name, count in zip(counts["Keys"], counts["Values"], strict=True)
            }
        except (KeyError, TypeError, ValueError) as error:
            raise PageError(f"{request}: the answer is not understood") from error

    def get_bytes(self, url: str, prefer: str = "") -> Answer:
        """An answer of any status, as it came.

        Args:
            url: Absolute, or a path below the API root.
            prefer: The header ``Prefer``, if there is to be one.

        Raises:
            RequestError: No answer came, after every retry.
            PageError: Every answer broke off.
        """
        path = url.removeprefix(self.api_url)
        url = url if url.startswith(("https://", "http://")) else self.api_url + url
        request = PageRequest(path.partition("?")[0][:100], url, number=0)
        read = partial(read_answer, limit=_ANSWER_LIMIT)
        return self._service.ask(request, lambda reply: read(reply.response), prefer)

    def stop(self) -> None:
        """Send no further request; threads that wait raise ``StoppedError``."""
        self._service.throttle.stop()
        self._budget.stop()

    def _get(
        self,
        request: PageRequest,
        parse: Callable[[PageRequest, memoryview], Page],
        prefer: str = "",
        expected: int | None = None,
    ) -> Page:
        def read(reply: Reply) -> Page:
            """Take a body and split it, within the budget of pages held."""
            if reply.response.status_code != 200:
                raise self._service.refusal(reply)
            held = _announced(reply.response) or expected or _WIDE_PAGE
            self._budget.acquire(held)
            began = self._clock()
            try:
                page = _read_page(reply, parse, held)
            except BaseException:
                self._budget.release(held)
                raise
            self._budget.adjust(page.size - held)
            took_s = reply.waited_s + self._clock() - began
            asked_at = self._asked_at(reply)
            return replace(page, asked_at=asked_at, took_s=took_s, requests=reply.requests)

        page = self._service.ask(request, read, prefer)
        with self._lock:
            self.bytes_read += page.size
        return page

    def _asked_at(self, reply: Reply) -> datetime:
        """The moment of asking by the server's clock, erring to the early side."""
        elapsed = timedelta(seconds=reply.elapsed_s)
        try:
            answered_at = parsedate_to_datetime(reply.response.headers["Date"])
        except (KeyError, ValueError):
            answered_at = self._now()
        if answered_at.tzinfo is None:
            answered_at = answered_at.replace(tzinfo=UTC)
        try:
            return answered_at.astimezone(UTC) - elapsed
        except OverflowError:  # past the year 9999
            return self._now() - elapsed


def _read_page(
    reply: Reply, parse: Callable[[PageRequest, memoryview], Page], expected: int
) -> Page:
    try:
        return parse(reply.request, bodies.read_body(reply.response.raw, expected))
    except odata.NotJsonError as error:
        raise BrokenBodyError(str(error)) from error
    except bodies.TooLargeError as error:
        raise PageError(
            f"{reply.request}: the answer is larger than {bodies.LARGEST_PAGE // 2**20} MiB",
            "No page of 5,000 records should be: read fewer at once (page_size of "
            "Config, from Python), and report it.",
            requests=reply.requests,
        ) from error
    except PageError as error:
        raise PageError(error.message, error.hint, requests=reply.requests) from error


def _announced(response: requests.Response) -> int | None:
    """How many bytes of JSON the headers promise; None if the body is compressed."""
    length = response.headers.get("Content-Length", "")
    if "Content-Encoding" in response.headers or not length.isdecimal():
        return None
    return min(int(length), bodies.LARGEST_PAGE) or None


def _decode(record: msgspec.Raw, label: str) -> Any:
    try:
        return json.loads(bytes(record))
    except (ValueError, RecursionError) as error:  # not UTF-8, or a number with 5,000 digits
        raise PageError(f"{label}: cannot be read ({error})") from error
