"""Ask Dataverse: one page, one document of metadata, one count, from any thread.

Adds to ``transport`` what is the service's own: the token, the five headers, the
service's errors, and a bound on how many bytes of pages are held at once.

https://learn.microsoft.com/power-apps/developer/data-platform/webapi/compose-http-requests-handle-errors
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, TypeVar, cast
from urllib.parse import quote

import msgspec
import requests
from urllib3.exceptions import (
    ConnectTimeoutError,
    MaxRetryError,
    NewConnectionError,
    ProtocolError,
    ProxyError,
)

from dataverse_sync.config import Config
from dataverse_sync.dataverse import definitions as metadata
from dataverse_sync.dataverse import odata
from dataverse_sync.dataverse.auth import Auth, describe
from dataverse_sync.dataverse.body_pool import BodyMaps, PageBudget
from dataverse_sync.dataverse.transport import NETWORK_ERRORS, Retries, Transport
from dataverse_sync.errors import EntityError, PageError, RequestError
from dataverse_sync.model import Page, PageRequest
from dataverse_sync.redaction import Redactor

log = logging.getLogger(__name__)

LARGEST_PAGE = 256 * 2**20  # bytes of JSON; more is no page of 5,000 records
_WIDE_PAGE = 24 * 2**20  # bytes, expected where nothing tells better: 5,000 rows of 180 columns
_CHUNK = 2**18
_ERROR_LIMIT = 65536  # bytes of an error body that are read
_JSON = {
    "Accept": "application/json",
    "OData-MaxVersion": "4.0",
    "OData-Version": "4.0",
}

T = TypeVar("T")


class DataverseClient:
    """Reads from one environment; safe to call from any thread.

    Args:
        config: Where the API is, and how large a page may be.
        transport: What requests go through.
        auth: Where tokens come from.
        redactor: What takes secrets out of the service's own words.
        clock: Seconds that only go forward.
        now: The local wall clock, used only where the service sends no ``Date``.
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
        self._transport = transport
        self._auth = auth
        self._redactor = redactor
        self._clock = clock
        self._now = now
        self._budget = PageBudget()
        self._maps = BodyMaps()
        self._sizes: dict[tuple[str, bool, bool], int] = {}  # kind of page → bytes of its last
        self._lock = threading.Lock()
        self._answered_at = clock()
        self._outage = ""  # why nothing is asked for any more
        self.bytes_read = 0

    @property
    def in_flight(self) -> int:
        return self._transport.throttle.in_flight

    @property
    def waited_s(self) -> float:
        return self._transport.throttle.waited_s

    def get_page(self, request: PageRequest) -> Page:
        """Read one page of an entity. Hand it back with ``release`` once it is stored.

        Args:
            request: What to read: a query, or a next link, sent back as it came.

        Returns:
            Up to 5,000 records in the server's order, each with the bytes it came
            as, and the link to the page after them.

        Raises:
            RequestError: The service refused, or five retries did not help. A read
                waits 150 s for data; a 429, as long as ``Retry-After`` says.
            PageError: The answer is not a page.

        Source: learn.microsoft.com, "Page results using OData".
        """
        kind = request.entity, request.keys_only, request.top
        prefer = [] if request.top else [f"odata.maxpagesize={self._page_size}"]
        if request.track_changes:
            prefer.insert(0, "odata.track-changes")
        try:
            page = self._get(
                request.url,
                str(request),
                prefer=",".join(prefer),
                parse=partial(odata.parse_page, request),
                expected=self._sizes.get(kind),
            )
        except RequestError as error:
            error.request = request
            raise
        self._sizes[kind] = max(page.size, 2**16)
        if page.next_link is not None:
            try:
                page = replace(page, next_link=odata.follow(page, page.next_link))
            except PageError as error:
                self.release(page)
                error.requests = page.requests
                raise
        return page

    def release(self, page: Page) -> None:
        """Make room for another page."""
        self._budget.release(page.size)

    def get_sample(self, entity_set: str) -> dict[str, Any] | None:
        """The first record of an entity set, decoded; None where it is empty.

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
            RequestError: Metadata may not be read, or cannot be had.
            PageError: The answer is not one.
        """
        definitions: list[dict[str, Any]] = []
        for start in range(0, len(names), 100):
            definitions += self.get_metadata(
                "EntityDefinitions",
                select=metadata.DEFINITION_SELECT,
                filter=metadata.definitions_filter(names[start : start + 100]),
                expand=metadata.DEFINITION_EXPAND,
            )
        return definitions

    def get_metadata(
        self, path: str, *, select: Sequence[str] = (), filter: str = "", expand: str = ""
    ) -> list[dict[str, Any]]:
        """The elements of one metadata answer, decoded; such answers are never paged.

        Args:
            path: Below the API root, such as ``EntityDefinitions`` or
                ``EntityDefinitions(LogicalName='account')/Attributes/Microsoft.Dynamics.CRM...``.
            select: Properties; all where empty.
            filter: Equality of properties and enums; functions are refused.
            expand: Attributes, relationships; with a cast, option sets.

        Raises:
            RequestError: Metadata may not be read, or cannot be had.
            PageError: The answer is not one.

        Source: learn.microsoft.com, "Query table definitions using the Web API".
        """
        url = odata.build_url(self.api_url, path, select=select, filter=filter, expand=expand)
        request = PageRequest(path.partition("/")[0], url)
        page = self._get(
            url,
            request.entity,
            prefer="",
            parse=partial(odata.parse_page, request),
        )
        self.release(page)
        return [_decode(record, request.entity) for record in page.records]

    def get_counts(self, logical_names: Sequence[str]) -> dict[str, int]:
        """About how many records these tables hold, by logical name; up to a day old.

        Raises:
            RequestError: The service refused.
            PageError: The answer is not one.

        Source: learn.microsoft.com, "RetrieveTotalRecordCount function".
        """
        names = quote(json.dumps(list(logical_names), separators=(",", ":")))
        request = PageRequest(
            "RetrieveTotalRecordCount",
            f"{self.api_url}RetrieveTotalRecordCount(EntityNames={names})",
        )
        page = self._get(
            request.url,
            request.entity,
            prefer="",
            parse=partial(odata.parse_document, request),
        )
        self.release(page)
        try:
            counts = json.loads(bytes(page.records[0]))["EntityRecordCountCollection"]
            return {
                name: int(count)
                for name, count in zip(counts["Keys"], counts["Values"], strict=True)
            }
        except (KeyError, TypeError, ValueError) as error:
            raise PageError(f"{request.entity}: the answer is not understood") from error

    def stop(self) -> None:
        """Send nothing any more; whoever waits raises ``StoppedError``."""
        self._transport.throttle.stop()
        self._budget.stop()

    def _get(
        self,
        url: str,
        label: str,
        *,
        prefer: str,
        parse: Callable[[memoryview], Page],
        expected: int | None = None,
    ) -> Page:
        if self._outage:
            raise RequestError(
                f"{label}: not asked for, {self._outage}",
                "Check the network and run again; it goes on from the last committed page.",
                requests=0,
            )
        if odata.origin(url) != odata.origin(self.api_url):
            raise PageError(
                f"{label}: the link leads to another origin; the token is not sent",
                "Set DATAVERSE_API_URL to the address the service uses in its own links.",
            )
        began = self._clock()
        retries = self._transport.retries()
        renewed = False
        self._transport.count_requests()
        throttle = self._transport.throttle
        throttle.enter()
        answered = False
        try:
            while True:
                token = self._auth.get_token()
                sent = self._clock()
                response = self._send(url, label, prefer, token, retries, began)
                waited_s = self._clock() - sent
                with response:
                    if response.status_code == 401 and not renewed:
                        renewed = True
                        retries = cast(Retries, response.raw.retries)
                        self._auth.renew(token)
                        continue
                    if response.status_code != 200:
                        raise self._refused(response, label)
                    try:
                        page = self._read(response, label, parse, expected)
                    except (odata.NotJsonError, *NETWORK_ERRORS) as error:
                        retries = self._again(response, error, url, label)
                        continue
                answered = True
                with self._lock:
                    self.bytes_read += page.size
                asked_at = self._asked_at(response, began)
                return replace(
                    page,
                    asked_at=asked_at,
                    took_s=waited_s + page.took_s,
                    requests=self._transport.count_requests(),
                )
        except EntityError as error:
            error.requests = self._transport.count_requests()
            raise
        finally:
            throttle.leave(answered)

    def _send(
        self, url: str, label: str, prefer: str, token: str, retries: Retries, began: float
    ) -> requests.Response:
        headers = {**_JSON, "Prefer": prefer} if prefer else _JSON
        try:
            response = self._transport.send(
                "GET", url, headers=headers, retries=retries, token=token
            )
        except requests.RequestException as error:
            reason = self._describe(error)
            # No connection, and nobody was answered meanwhile: it is away. A connection that
            # breaks says nothing of other requests.
            if _is_unreachable(error) and self._answered_at <= began:
                self._outage = f"since the service does not answer ({reason})"
            raise RequestError(
                f"{label}: no answer from the service ({reason})",
                "Check the network and run again; it goes on from the last committed page.",
            ) from None
        self._answered_at = self._clock()
        return response

    def _read(
        self,
        response: requests.Response,
        label: str,
        parse: Callable[[memoryview], Page],
        expected: int | None,
    ) -> Page:
        """Take a body and split it, within the budget of pages held."""
        held = _announced(response) or expected or _WIDE_PAGE
        self._budget.acquire(held)
        began = self._clock()
        try:
            page = parse(_read_body(response, self._maps, held, label))
            self._budget.adjust(page.size - held)
            held = 0
            return replace(page, took_s=self._clock() - began)
        finally:
            if held:
                self._budget.release(held)

    def _again(
        self, response: requests.Response, error: Exception, url: str, label: str
    ) -> Retries:
        """Ask for the same page again within the same schedule: a body broke after its headers."""
        log.debug("%s: the answer broke off (%s); asked again", label, self._describe(error))
        spent: Any = response.raw.retries
        try:
            retries: Retries = spent.increment("GET", url, error=ProtocolError("broken answer"))
        except MaxRetryError:
            what = "is not JSON" if isinstance(error, odata.NotJsonError) else "broke off"
            raise PageError(
                f"{label}: the answer {what}, after every retry ({self._describe(error)})",
                "Does DATAVERSE_API_URL end in /api/data/v9.2/? Is a proxy in between?",
            ) from None
        response.close()
        retries.sleep()
        return retries

    def _refused(self, response: requests.Response, label: str) -> RequestError:
        status = response.status_code
        try:
            body = response.raw.read(_ERROR_LIMIT, decode_content=True)
        except NETWORK_ERRORS:
            body = b""
        code, message = odata.parse_error(body)
        request_id = next(
            (
                response.headers[name]
                for name in ("x-ms-service-request-id", "REQ_ID")
                if name in response.headers
            ),
            "",
        )
        if 300 <= status < 400:
            message = f"redirected to {response.headers.get('Location', 'nowhere')[:200]}"
        said = f"{status} {code}".rstrip() + (f": {message[:500].rstrip('.')}" if message else "")
        named = f" (request {request_id[:64]})" if request_id else ""
        return RequestError(
            self._redactor.redact(f"{label}: the service answered {said}{named}"),
            _hint(status),
            status=status,
            code=self._redactor.redact(code)[:64],
        )

    def _asked_at(self, response: requests.Response, began: float) -> datetime:
        """The moment of asking by the server's clock, erring to the early side."""
        elapsed = timedelta(seconds=self._clock() - began)
        try:
            answered_at = parsedate_to_datetime(response.headers["Date"])
        except (KeyError, ValueError):
            answered_at = self._now()
        if answered_at.tzinfo is None:
            answered_at = answered_at.replace(tzinfo=UTC)
        try:
            return answered_at.astimezone(UTC) - elapsed
        except OverflowError:  # past the year 9999
            return self._now() - elapsed

    def _describe(self, error: Exception) -> str:
        return self._redactor.redact(describe(error))


def _read_body(
    response: requests.Response, maps: BodyMaps, expected: int, label: str
) -> memoryview:
    """A whole body, inflated.

    Raises:
        PageError: It is larger than any page can be.
    """
    body = maps.take(expected)
    size = 0
    try:
        while chunk := response.raw.read(_CHUNK, decode_content=True):
            needed = size + len(chunk)
            if needed > LARGEST_PAGE:
                raise PageError(
                    f"{label}: the answer is larger than {LARGEST_PAGE // 2**20} MiB",
                    "No page of 5,000 records should be: read fewer at once (page_size of "
                    "Config, from Python), and report it.",
                )
            if needed > len(body):
                larger = maps.take(2 * needed)
                larger[:size] = body[:size]
                maps.give_back(body)
                body = larger
            body[size:needed] = chunk
            size = needed
    except BaseException:
        maps.give_back(body)
        raise
    return maps.lend(body, size)


def _announced(response: requests.Response) -> int | None:
    """How many bytes of JSON the headers promise; None where the body is compressed."""
    length = response.headers.get("Content-Length", "")
    if "Content-Encoding" in response.headers or not length.isdecimal():
        return None
    return min(int(length), LARGEST_PAGE) or None


def _decode(record: msgspec.Raw, label: str) -> Any:
    try:
        return json.loads(bytes(record))
    except (ValueError, RecursionError) as error:  # not UTF-8, or a number with 5,000 digits
        raise PageError(f"{label}: cannot be read ({error})") from error


def _hint(status: int) -> str:
    if status == 401:
        return "The token is refused, also a new one: is the app an application user here?"
    if status == 403:
        return "Give the application user a role with this privilege (organization level read)."
    if status == 404:
        return "Is it the entity set name (plural), and spelt as the API spells it?"
    if status == 429:
        return "The service was busy for too long. Run again later, or with fewer --workers."
    if status >= 500:
        return "Run again later; it goes on from the last committed page."
    if 300 <= status < 400:
        return "Set DATAVERSE_API_URL to the address of the Web API itself."
    return ""


def _is_unreachable(error: requests.RequestException) -> bool:
    """Whether not even a connection came about."""
    cause = error.args[0] if error.args else None
    reason = cause.reason if isinstance(cause, MaxRetryError) else cause
    return isinstance(reason, NewConnectionError | ConnectTimeoutError | ProxyError)
