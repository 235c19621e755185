"""Retry a request after 1, 2, 4, 8, 16 s, or when its ``Retry-After`` says.

urllib3's ``Retry`` does the work. The waits are ours, since they pass the throttle, and so
are the 429s: the first ten of a request do not count as failures.
"""

from __future__ import annotations

import email.utils
import logging
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import urllib3
from urllib3.connectionpool import ConnectionPool
from urllib3.exceptions import MaxRetryError, SSLError
from urllib3.response import BaseHTTPResponse
from urllib3.util.retry import RequestHistory, Retry

from dataverse_sync.dataverse.throttle import Throttle

log = logging.getLogger(__name__)

RETRIES = 5  # after waits of 1, 2, 4, 8 and 16 s
THROTTLED_RETRIES = 10  # 429s that a request may meet before they count as failures
LONGEST_WAIT_S = 300.0  # the window that the service's limits look back on
RETRIED_STATUSES = (429, 500, 502, 503, 504)
NETWORK_ERRORS = (urllib3.exceptions.HTTPError, OSError)  # requests' own errors are OSErrors
_DISCARDED = 65536  # bytes of a fault's body


def parse_retry_after(text: str | None, now: datetime) -> float | None:
    """Seconds to wait by a ``Retry-After`` header, in seconds or as a date; None if unusable."""
    if text is None:
        return None
    text = text.strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text):
        return float(text)
    try:
        moment = email.utils.parsedate_to_datetime(text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return max(0.0, (moment - now).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None


@dataclass(frozen=True, slots=True)
class Policy:
    """What our schedule needs beyond urllib3's."""

    throttle: Throttle
    gated: bool  # whether the request holds a place in the throttle
    throttled: int = THROTTLED_RETRIES  # 429s left that do not count as failures


class Retries(Retry):
    """urllib3's schedule with our waits: 1, 2, 4, 8, 16 s, and 429s through the shared gate."""

    def __init__(self, *args: Any, policy: Policy, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.policy = policy

    @classmethod
    def start(cls, throttle: Throttle, gated: bool = True) -> Self:
        """The whole schedule; not gated, for a request that holds no place in the throttle."""
        return cls(
            total=RETRIES,
            redirect=0,
            allowed_methods=None,
            status_forcelist=RETRIED_STATUSES,
            raise_on_status=False,
            raise_on_redirect=False,
            remove_headers_on_redirect=["Authorization"],
            policy=Policy(throttle, gated),
        )

    def new(self, **kwargs: Any) -> Self:
        return super().new(**{"policy": self.policy, **kwargs})

    def increment(
        self,
        method: str | None = None,
        url: str | None = None,
        response: BaseHTTPResponse | None = None,
        error: Exception | None = None,
        _pool: ConnectionPool | None = None,
        _stacktrace: TracebackType | None = None,
    ) -> Self:
        if isinstance(error, SSLError) and "certificate" in str(error).lower():
            assert _pool is not None  # noqa: S101  a TLS error comes out of a pool
            raise MaxRetryError(_pool, url or "", error) from error
        left = self.policy.throttled
        if response is not None and response.status == 429 and left > 0:
            met = RequestHistory(method, url, None, 429, None)
            policy = replace(self.policy, throttled=left - 1)
            retries = self.new(policy=policy, history=(*self.history, met))
        else:
            retries = super().increment(method, url, response, error, _pool, _stacktrace)
        if response is not None:
            _discard(response)
        return retries

    def get_backoff_time(self) -> float:
        return float(min(16, 2 ** max(0, len(self.history) - 1)))

    def sleep(self, response: BaseHTTPResponse | None = None) -> None:
        asked_s = None
        if response is not None:
            asked_s = parse_retry_after(response.headers.get("Retry-After"), datetime.now(UTC))
        if asked_s is not None and asked_s > LONGEST_WAIT_S:
            log.warning(
                "the service asks to wait %.0f s; asked again after %.0f s", asked_s, LONGEST_WAIT_S
            )
            asked_s = LONGEST_WAIT_S
        wait_s = asked_s or self.get_backoff_time()  # "0" again and again would spend all retries
        throttle = self.policy.throttle
        if response is not None and response.status == 429 and self.policy.gated:
            throttle.close(wait_s)
            throttle.leave(answered=False)
            throttle.enter()
        else:
            throttle.sleep(wait_s)


def _discard(response: BaseHTTPResponse) -> None:
    """Read a short body, to keep the connection; urllib3 would read an endless one too."""
    with suppress(*NETWORK_ERRORS):
        response.read(_DISCARDED, decode_content=False)
    response.close()
