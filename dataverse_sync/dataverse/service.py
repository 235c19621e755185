"""Ask the service: send a request through the gate with the run's token, and name its errors.

Adds to ``transport`` what is the service's own: the token, the five headers, its error
codes, and that no request is sent after it could not be reached.

https://learn.microsoft.com/power-apps/developer/data-platform/webapi/compose-http-requests-handle-errors
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar, cast

import requests

from dataverse_sync.dataverse import odata
from dataverse_sync.dataverse.auth import Auth
from dataverse_sync.dataverse.retries import NETWORK_ERRORS, Retries
from dataverse_sync.dataverse.throttle import Clock
from dataverse_sync.dataverse.transport import (
    BrokenBodyError,
    HttpRequest,
    Transport,
    describe,
    is_unreachable,
)
from dataverse_sync.errors import EntityError, PageError, RequestError
from dataverse_sync.model import PageRequest
from dataverse_sync.redaction import Redactor

_ERROR_LIMIT = 65536  # bytes of an error body that are read
_HEADERS = {
    "Accept": "application/json",
    "OData-MaxVersion": "4.0",
    "OData-Version": "4.0",
}
_HINTS = {
    401: "The token is refused, also a new one: is the app an application user here?",
    403: "Give the application user a role with this privilege (organization level read).",
    404: "Is it the entity set name (plural), and spelt as the API spells it?",
    429: "The service was busy for too long. Run again later, or with fewer --workers.",
}
_GOES_ON = "it goes on from the last committed page."

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of the service whose headers have come; its body is still to be read."""

    response: requests.Response
    request: PageRequest
    elapsed_s: float  # since the question was put, which may have waited at the gate
    waited_s: float  # since it was sent
    requests: int  # HTTP requests that it took, a new token included


class _TokenRefusedError(Exception):
    """The service answered 401; ``retries`` is what is left of the schedule."""

    def __init__(self, retries: Retries) -> None:
        self.retries = retries


class Service:
    """The Web API of one environment; safe to ask from any thread.

    Args:
        api_url: Where it is.
        transport: What requests go through.
        auth: Where tokens come from.
        redactor: Takes secrets out of the service's own words.
        clock: Seconds that only go forward.
    """

    def __init__(
        self, api_url: str, transport: Transport, auth: Auth, redactor: Redactor, clock: Clock
    ) -> None:
        self.api_url = api_url
        self.throttle = transport.throttle
        self._transport = transport
        self._auth = auth
        self._redactor = redactor
        self._clock = clock
        self._answered_at = clock()
        self._outage = ""  # why no request is sent any more

    def ask(self, request: PageRequest, read: Callable[[Reply], T], prefer: str = "") -> T:
        """Send a request through the gate, and return what ``read`` makes of the reply.

        Args:
            request: What to ask.
            read: Takes a reply of any status; a 401 only if a new token was refused too.
            prefer: The header ``Prefer``, if there is to be one.

        Raises:
            RequestError: No answer came, after every retry, or the service is known to be away.
            PageError: Every answer broke off, or the URL leads to another origin.
        """
        self._check(request)
        began, sent_before = self._clock(), self._transport.sent
        headers = {**_HEADERS, "Prefer": prefer} if prefer else _HEADERS

        def take(response: requests.Response) -> T:
            now = self._answered_at = self._clock()
            sent = self._transport.sent - sent_before
            return read(Reply(response, request, now - began, now - sent_at, sent))

        answered = False
        self.throttle.enter()
        sent_at = self._clock()
        try:
            answer = self._send(request.url, headers, take)
            answered = True
            return answer
        except (BrokenBodyError, *NETWORK_ERRORS) as error:
            sent = self._transport.sent - sent_before
            raise self._explain(error, request, began, sent) from None
        finally:
            self.throttle.leave(answered)

    def refusal(self, reply: Reply) -> RequestError:
        """The error for a reply whose status is not 200."""
        status, headers = reply.response.status_code, reply.response.headers
        try:
            body = reply.response.raw.read(_ERROR_LIMIT, decode_content=True)
        except NETWORK_ERRORS:
            body = b""
        code, message = odata.parse_error(body)
        if 300 <= status < 400:
            message = f"redirected to {headers.get('Location', 'nowhere')[:200]}"
        said = f"{status} {code}".rstrip() + (f": {message[:500].rstrip('.')}" if message else "")
        request_id = headers.get("x-ms-service-request-id", headers.get("REQ_ID", ""))
        named = f" (request {request_id[:64]})" if request_id else ""
        return RequestError(
            self._redactor.redact(f"{reply.request}: the service answered {said}{named}"),
            _hint(status),
            status=status,
            code=self._redactor.redact(code)[:64],
            requests=reply.requests,
            request=reply.request,
        )

    def _check(self, request: PageRequest) -> None:
        if self._outage:
            raise RequestError(
                f"{request}: not asked for, {self._outage}",
                f"Check the network and run again; {_GOES_ON}",
                request=request,
            )
        if odata.origin(request.url) != odata.origin(self.api_url):
            raise PageError(
                f"{request}: the link leads to another origin; the token is not sent",
                "Set DATAVERSE_API_URL to the address the service uses in its own links.",
            )

    def _send(
        self, url: str, headers: Mapping[str, str], take: Callable[[requests.Response], T]
    ) -> T:
        """Send a request with the run's token, and once more with a new one if it is refused."""

        def take_unless_refused(response: requests.Response) -> T:
            if response.status_code == 401:
                raise _TokenRefusedError(cast(Retries, response.raw.retries))
            return take(response)

        token = self._auth.get_token()
        request = HttpRequest("GET", url, {**headers, "Authorization": f"Bearer {token}"})
        try:
            return self._transport.fetch(request, take_unless_refused, Retries.start(self.throttle))
        except _TokenRefusedError as refused:
            retries = refused.retries
        self._auth.renew(token)
        token = self._auth.get_token()
        request = HttpRequest("GET", url, {**headers, "Authorization": f"Bearer {token}"})
        return self._transport.fetch(request, take, retries)

    def _explain(
        self, error: Exception, request: PageRequest, began: float, sent: int
    ) -> EntityError:
        """The error for a request that got no whole answer, after every retry."""
        reason = self._redactor.redact(describe(error))
        if not isinstance(error, requests.RequestException):
            what = "is not JSON" if isinstance(error, BrokenBodyError) else "broke off"
            return PageError(
                f"{request}: the answer {what}, after every retry ({reason})",
                "Does DATAVERSE_API_URL end in /api/data/v9.2/? Is a proxy in between?",
                requests=sent,
            )
        # No connection, and nobody was answered meanwhile: it is away. A connection that
        # breaks says nothing of other requests.
        if is_unreachable(error) and self._answered_at <= began:
            self._outage = f"since the service does not answer ({reason})"
        return RequestError(
            f"{request}: no answer from the service ({reason})",
            f"Check the network and run again; {_GOES_ON}",
            requests=sent,
            request=request,
        )


def _hint(status: int) -> str:
    if status >= 500:
        return f"Run again later; {_GOES_ON}"
    if 300 <= status < 400:
        return "Set DATAVERSE_API_URL to the address of the Web API itself."
    return _HINTS.get(status, "")
