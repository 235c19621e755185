"""Read from Dataverse: a page, an answer of metadata, counts, from any thread.

Adds to ``transport`` what is the service's own: the token and the headers; an outage, after which
no further request is sent; how many bytes of pages are held at once; and the moment, by the
server's clock, at which a page was asked for.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec
import requests

from dataverse_sync.config import Config
from dataverse_sync.dataverse import bodies, definitions, odata
from dataverse_sync.dataverse.auth import Auth
from dataverse_sync.dataverse.refusals import GOES_ON, build_refusal
from dataverse_sync.dataverse.retries import NETWORK_ERRORS, Retries, parse_date
from dataverse_sync.dataverse.transport import (
    TRUST_HINT,
    Answer,
    BrokenBodyError,
    Transport,
    describe,
    is_unreachable,
    is_untrusted,
    read_answer,
)
from dataverse_sync.errors import EntityError, PageError, RequestError
from dataverse_sync.model import Page, PageRequest
from dataverse_sync.redaction import Redactor

_WIDE_PAGE = 24 * 2**20  # bytes, expected if nothing is known: 5,000 rows of 180 columns
_ANSWER_LIMIT = 64 * 2**20  # bytes of an answer that is not a page
DEFINITIONS_AT_ONCE = 100  # entity sets in one request
_HEADERS = {"Accept": "application/json", "OData-MaxVersion": "4.0", "OData-Version": "4.0"}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request on its way, and what its answer is measured by."""

    request: PageRequest
    began: float  # when it came to the gate
    sent_at: float  # when it had passed it
    sent_before: int  # HTTP requests of this thread until then


class _TokenRefusedError(Exception):
    """The service answered 401 to a token that may have expired."""


class DataverseClient:
    """Reads from one environment; safe to call from any thread."""

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
        self.bytes_read = 0
        self.server_date: datetime | None = None  # of the last answer, by the service's clock
        self._page_size = config.page_size
        self._transport = transport
        self._throttle = transport.throttle
        self._auth = auth
        self._redactor = redactor
        self._clock = clock
        self._now = now  # used only if the service sends no Date
        self._budget = bodies.PageBudget()
        self._documents = bodies.PageBudget()  # of answers that pages may have to wait for
        self._maps = bodies.BodyMaps()
        self._sizes: dict[tuple[str, bool, bool, int], int] = {}  # kind of page → bytes of its last
        self._lock = threading.Lock()
        self._answered_at = clock()
        self._outage = ""  # why no request is sent any more
        self._definitions = definitions.NEWEST  # how it is asked for definitions

    @property
    def waited_s(self) -> float:
        """For how long the gate was closed by throttling so far."""
        return self._throttle.waited_s

    def get_page(self, request: PageRequest) -> Page:
        """Read one page of an entity; hand it back with ``release`` once it is stored.

        Returns:
            Up to 5,000 records in the server's order, each with the bytes it came
            as, and the link to the page after them.

        Raises:
            RequestError: The service refused, or five retries did not help. A read
                waits 150 s for data; a 429, as ``Retry-After`` says, 300 s at most.
            PageError: The answer is not a page of records.

        Source: learn.microsoft.com, "Page results using OData".
        """
        size = min(request.size or self._page_size, self._page_size)
        prefer = [] if request.top else [f"odata.maxpagesize={size}"]
        if request.track_changes:
            prefer.insert(0, "odata.track-changes")
        if request.names_targets:
            prefer.append(f'odata.include-annotations="{odata.LOOKUP_TARGET}"')
        kind = request.entity, request.keys_only, request.top, size
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
        self._budget_of(page.request).release(page.size)

    def _budget_of(self, request: PageRequest) -> bodies.PageBudget:
        return self._budget if request.number else self._documents

    def get_sample(self, entity_set: str) -> dict[str, Any] | None:
        """The first record of an entity set, decoded; None if it is empty."""
        url = odata.build_url(self.api_url, entity_set, top=1)
        page = self.get_page(PageRequest(entity_set, url, top=True))
        self.release(page)
        if not page.records:
            return None
        record = _decode(page.records[0], f"{entity_set}, the first record")
        if not isinstance(record, dict):
            raise PageError(f"{entity_set}: the first record is not an object")
        return record

    def get_definitions(
        self, names: Sequence[str], *, is_trial: bool = False
    ) -> list[dict[str, Any]]:
        """The EntityDefinitions of these entity sets; sets that it does not know are left out."""
        found: list[dict[str, Any]] = []
        for start in range(0, len(names), DEFINITIONS_AT_ONCE):
            filter = definitions.definitions_filter(names[start : start + DEFINITIONS_AT_ONCE])
            found += self._get_definitions(filter, is_trial)
        return found

    def _get_definitions(self, filter: str, is_trial: bool) -> list[dict[str, Any]]:
        """Definitions; older services refuse a query that names what they do not know."""
        version = self._definitions
        while True:
            try:
                found = self.get_metadata(
                    "EntityDefinitions",
                    select=version.select,
                    filter=filter,
                    expand=version.expand,
                    is_trial=is_trial,
                )
            except RequestError as error:
                if error.status != 400 or version.older is None:
                    raise
                version = version.older
            else:
                self._definitions = version
                return found

    def get_metadata(
        self,
        path: str,
        *,
        select: Sequence[str] = (),
        filter: str = "",
        expand: str = "",
        is_trial: bool = False,
    ) -> list[dict[str, Any]]:
        """The elements of one metadata answer, decoded; such answers are never paged.

        A filter may compare properties and enums for equality; functions are refused. A
        trial is retried once alone, and its failure is not taken for an outage of the service.

        Source: learn.microsoft.com, "Query table definitions using the Web API".
        """
        url = odata.build_url(self.api_url, path, select=select, filter=filter, expand=expand)
        request = PageRequest(
            path.partition("/")[0], url, number=0, retries=1 if is_trial else None
        )
        page = self._get(request, odata.parse_page)
        self.release(page)
        return [_decode(record, str(request)) for record in page.records]

    def get_counts(self, logical_names: Sequence[str]) -> dict[str, int]:
        """About how many records each table holds, by logical name; up to a day old.

        Source: learn.microsoft.com, "RetrieveTotalRecordCount function".
        """
        function = "RetrieveTotalRecordCount"
        names = quote(json.dumps(list(logical_names), separators=(",", ":")))
        answer = self.get_document(function, f"{function}(EntityNames={names})")
        try:
            counts = answer["EntityRecordCountCollection"]
            return dict(zip(counts["Keys"], map(int, counts["Values"]), strict=True))
        except (KeyError, TypeError, ValueError) as error:
            raise PageError(f"{function}: the answer is not understood") from error

    def get_document(self, function: str, path: str, *, retries: int | None = None) -> Any:
        """The answer of a function, decoded; ``path`` is its call, below the API root."""
        request = PageRequest(function, self.api_url + path, number=0, retries=retries)
        page = self._get(request, odata.parse_document)
        self.release(page)
        return _decode(page.records[0], str(request))

    def get_bytes(self, url: str, prefer: str = "") -> Answer:
        """An answer of any status, as it came, from a URL or a path below the API root."""
        path = url.removeprefix(self.api_url)
        url = url if url.startswith(("https://", "http://")) else self.api_url + url
        request = PageRequest(path.partition("?")[0][:100], url, number=0)
        return self._ask(request, prefer, lambda it, _: read_answer(it, _ANSWER_LIMIT))

    def stop(self) -> None:
        """Send no further request; threads that wait raise ``StoppedError``."""
        self._throttle.stop()
        self._budget.stop()
        self._documents.stop()

    def _get(
        self,
        request: PageRequest,
        parse: Callable[[PageRequest, memoryview], Page],
        prefer: str = "",
        expected: int | None = None,
    ) -> Page:
        def read(response: requests.Response, asked: _Asked) -> Page:
            """Take a body and split it, within the budget of pages held."""
            arrived, sent = self._clock(), self._transport.sent - asked.sent_before
            if response.status_code != 200:
                raise build_refusal(request, response, sent, self._redactor)
            held, budget = _announced(response) or expected or _WIDE_PAGE, self._budget_of(request)
            budget.acquire(held)
            admitted = self._clock()
            try:
                page = self._split(response, request, parse, held, sent)
            except BaseException:
                budget.release(held)
                raise
            budget.adjust(page.size - held)
            return replace(
                page,
                asked_at=self._find_asked_at(response, arrived - asked.began),
                took_s=arrived - asked.sent_at + self._clock() - admitted,
                requests=sent,
            )

        page = self._ask(request, prefer, read)
        with self._lock:
            self.bytes_read += page.size
        return page

    def _ask(
        self,
        request: PageRequest,
        prefer: str,
        read: Callable[[requests.Response, _Asked], T],
    ) -> T:
        """Send a request through the gate; ``read`` takes an answer of any status."""
        self._check(request)
        began, sent_before = self._clock(), self._transport.sent
        is_answered = False
        self._throttle.enter()
        try:
            asked = _Asked(request, began, self._clock(), sent_before)
            answer = self._send(asked, prefer, read)
            is_answered = True
            return answer
        except (BrokenBodyError, *NETWORK_ERRORS) as error:
            sent = self._transport.sent - sent_before
            raise self._explain(error, request, began, sent) from None
        finally:
            self._throttle.leave(is_answered)

    def _send(
        self,
        asked: _Asked,
        prefer: str,
        read: Callable[[requests.Response, _Asked], T],
    ) -> T:
        """Send a request with the run's token, and once more with a new one if it is refused."""
        retries = Retries.start(self._throttle, total=asked.request.retries)
        token = self._auth.get_token()
        for may_renew in (True, False):

            def take(response: requests.Response, may_renew: bool = may_renew) -> T:
                self._answered_at = self._clock()
                if response.status_code == 401 and may_renew:
                    raise _TokenRefusedError(response.raw.retries)
                return read(response, asked)

            headers = {**_HEADERS, "Authorization": f"Bearer {token}"}
            headers |= {"Prefer": prefer} if prefer else {}
            try:
                return self._transport.fetch(asked.request.url, headers, take, retries)
            except _TokenRefusedError as refused:
                retries = refused.args[0]
                token = self._auth.renew(token)
        raise AssertionError("the second answer is taken")  # pragma: no cover

    def _check(self, request: PageRequest) -> None:
        if self._outage:
            raise RequestError(
                f"{request}: not asked for, {self._outage}",
                f"Check the network and run again; {GOES_ON}",
                request=request,
                is_outage=True,
            )
        if odata.origin(request.url) != odata.origin(self.api_url):
            raise PageError(
                f"{request}: the link leads to another origin; the token is not sent",
                odata.suggest_api_url(request.url, self.api_url),
            )

    def _explain(
        self, error: Exception, request: PageRequest, began: float, sent: int
    ) -> EntityError:
        """The error for a request that got no whole answer, after every retry."""
        reason = self._redactor.redact(describe(error))
        hint = "Does DATAVERSE_API_URL end in /api/data/v9.2/? Is a proxy in between?"
        if isinstance(error, BrokenBodyError):
            text = f"{request}: the answer is not JSON, after every retry ({reason})"
            return PageError(text, hint, requests=sent)
        if not isinstance(error, requests.RequestException):
            text = f"{request}: the answer broke off, after every retry ({reason})"
            return RequestError(text, hint, requests=sent, request=request)
        # No connection, and nobody was answered meanwhile: it is away. A connection that
        # breaks says nothing of other requests.
        is_outage = is_unreachable(error)
        if is_outage and self._answered_at <= began and request.retries is None:
            self._outage = f"since the service does not answer ({reason})"
        return RequestError(
            f"{request}: no answer from the service ({reason})",
            TRUST_HINT if is_untrusted(error) else f"Check the network and run again; {GOES_ON}",
            requests=sent,
            request=request,
            is_outage=is_outage,
        )

    def _split(
        self,
        response: requests.Response,
        request: PageRequest,
        parse: Callable[[PageRequest, memoryview], Page],
        expected: int,
        sent: int,
    ) -> Page:
        try:
            limit = bodies.LARGEST_RECORD if request.size == 1 else bodies.LARGEST_PAGE
            return parse(request, bodies.read_body(response.raw, self._maps, expected, limit))
        except odata.NotJsonError as error:
            raise BrokenBodyError(str(error)) from error
        except bodies.TooLargeError as error:
            text = f"{request}: the answer is larger than {error.limit // 2**20} MiB"
            raise RequestError(text, error.hint, requests=sent, request=request) from error
        except PageError as error:
            raise PageError(error.message, error.hint, requests=sent) from error

    def _find_asked_at(self, response: requests.Response, elapsed_s: float) -> datetime:
        """The moment of asking by the server's clock, erring to the early side."""
        self.server_date = parse_date(response.headers.get("Date")) or self.server_date
        answered_at = parse_date(response.headers.get("Date")) or self._now()
        try:
            return answered_at.astimezone(UTC) - timedelta(seconds=elapsed_s)
        except OverflowError:  # past the year 9999
            return self._now() - timedelta(seconds=elapsed_s)


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
