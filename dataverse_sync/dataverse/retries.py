"""Retry a request after 1, 2, 4, 8, 16 s, or when its ``Retry-After`` says.

urllib3's ``Retry`` does the work. The waits are ours, since they pass the throttle, and so
are the 429s: the first ten of a request do not count as failures. An environment that says it is
closed (disabled, administration mode) is not asked again.
"""

from __future__ import annotations

import email.utils
import logging
import re
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Self

import urllib3
from urllib3.exceptions import MaxRetryError, SSLError
from urllib3.response import BaseHTTPResponse
from urllib3.util.retry import RequestHistory, Retry

from dataverse_sync.dataverse.error_codes import is_state
from dataverse_sync.dataverse.odata import parse_error
from dataverse_sync.dataverse.throttle import Throttle

log = logging.getLogger(__name__)

RETRIES = 5  # after waits of 1, 2, 4, 8 and 16 s
THROTTLED_RETRIES = 10  # 429s that a request may meet before they count as failures
LONGEST_WAIT_S = 300.0  # the window that the service's limits look back on
RETRIED_STATUSES = (429, 500, 502, 503, 504)
NETWORK_ERRORS = (urllib3.exceptions.HTTPError, OSError)  # requests' own errors are OSErrors
_DISCARDED = 65536  # bytes of a fault's body


def parse_date(text: str | None) -> datetime | None:
    """The moment that an HTTP date tells, aware; None if it is missing or unusable."""
    try:
        moment = email.utils.parsedate_to_datetime(text or "")
    except (ValueError, TypeError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def parse_retry_after(text: str | None, now: datetime) -> float | None:
    """Seconds to wait by a ``Retry-After`` header, in seconds or as a date; None if unusable.

    ``now`` is the moment of the answer by the clock that the date goes by.
    """
    text = (text or "").strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text):
        return float(text)
    moment = parse_date(text)
    return max(0.0, (moment - now).total_seconds()) if moment else None


def read_start(response: BaseHTTPResponse, limit: int) -> bytes:
    """At most so many bytes of a body, decoded, also if it was read to see whether to retry."""
    start: bytes | None = getattr(response, "start", None)
    return response.read(limit, decode_content=True) if start is None else start[:limit]


class Retries(Retry):
    """urllib3's schedule with our waits: 1, 2, 4, 8, 16 s, and 429s through the shared gate."""

    def __init__(
        self, *args: Any, throttle: Throttle, gated: bool, unfailing: int, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.throttle = throttle
        self.gated = gated  # whether the request holds a place in the throttle
        self.unfailing = unfailing  # 429s left that do not count as failures

    @classmethod
    def start(cls, throttle: Throttle, gated: bool = True, total: int | None = None) -> Self:
        """The schedule, or so many retries of it; not gated, for a request without a place.

        Being told to come later is no failure, of a short schedule either.
        """
        return cls(
            total=RETRIES if total is None else total,
            redirect=0,
            allowed_methods=None,
            status_forcelist=RETRIED_STATUSES,
            raise_on_status=False,
            raise_on_redirect=False,
            remove_headers_on_redirect=["Authorization"],
            throttle=throttle,
            gated=gated,
            unfailing=THROTTLED_RETRIES,
        )

    def new(self, **kwargs: Any) -> Self:
        ours = {"throttle": self.throttle, "gated": self.gated, "unfailing": self.unfailing}
        return super().new(**{**ours, **kwargs})

    def increment(
        self,
        method: str | None = None,
        url: str | None = None,
        response: BaseHTTPResponse | None = None,
        error: Exception | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Self:
        if isinstance(error, SSLError) and "certificate" in str(error).lower():
            raise MaxRetryError(kwargs["_pool"], url or "", error) from error
        if response is not None and response.status == 429 and self.unfailing > 0:
            met = RequestHistory(method, url, None, 429, None)
            retries = self.new(unfailing=self.unfailing - 1, history=(*self.history, met))
        else:
            retries = super().increment(method, url, response, error, *args, **kwargs)
        if response is not None:
            # A short body is read, to keep the connection; urllib3 would read an endless one too.
            start = b""
            with suppress(*NETWORK_ERRORS):
                start = response.read(_DISCARDED, decode_content=True)
            if is_state(parse_error(start)[0]):
                response.start = start  # type: ignore[attr-defined]  # see read_start
                raise MaxRetryError(kwargs["_pool"], url or "")
            response.close()
        return retries

    def get_backoff_time(self) -> float:
        return float(min(16, 2 ** max(0, len(self.history) - 1)))

    def sleep(self, response: BaseHTTPResponse | None = None) -> None:
        headers = response.headers if response is not None else {}
        answered_at = parse_date(headers.get("Date")) or datetime.now(UTC)
        asked_s = parse_retry_after(headers.get("Retry-After"), answered_at) or 0.0
        if asked_s > LONGEST_WAIT_S:
            log.warning(
                "the service asks to wait %.0f s; asked again after %.0f s", asked_s, LONGEST_WAIT_S
            )
            asked_s = LONGEST_WAIT_S
        wait_s = asked_s or self.get_backoff_time()  # "0" again and again would spend all retries
        if response is not None and response.status == 429 and self.gated:
            self.throttle.close(wait_s)
            self.throttle.leave(answered=False)
            self.throttle.enter()
        else:
            self.throttle.sleep(wait_s)
