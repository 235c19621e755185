"""Send one HTTP request well: retries, throttling, exact URLs, no cookies, verified TLS.

Knows HTTP, not Dataverse. ``auth`` and ``dataverse_client`` send through it, and
nothing else imports requests. One ``Transport`` serves all threads of a run; a
session belongs to one thread, since requests does not promise that it may be
shared (https://github.com/psf/requests/issues/2766).
"""

from __future__ import annotations

import email.utils
import re
import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from http.cookiejar import DefaultCookiePolicy
from types import TracebackType
from typing import Any, Self

import certifi
import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import ConnectionPool, HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import MaxRetryError
from urllib3.exceptions import SSLError as Urllib3SSLError
from urllib3.response import BaseHTTPResponse
from urllib3.util.retry import RequestHistory, Retry

from dataverse_sync.config import is_loopback
from dataverse_sync.dataverse.throttle import Throttle
from dataverse_sync.version import __version__

RETRIES = 5  # after waits of 1, 2, 4, 8 and 16 s
THROTTLED_RETRIES = 10  # 429s that a request may meet before they count as failures
LONGEST_WAIT_S = 300.0  # the window that the service's limits look back on
RETRIED_STATUSES = (429, 500, 502, 503, 504)
NETWORK_ERRORS = (urllib3.exceptions.HTTPError, OSError)  # while a body is being read
_DISCARDED = 65536  # bytes of a fault's body
USER_AGENT = f"dataverse-sync/{__version__}"
_HEADERS = {"User-Agent": USER_AGENT, "Accept-Encoding": "gzip"}


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


class Retries(Retry):
    """urllib3's schedule with our waits: 1, 2, 4, 8, 16 s, and 429s through the shared gate."""

    def __init__(
        self,
        *args: Any,
        throttle: Throttle,
        throttled: int = THROTTLED_RETRIES,
        gated: bool = True,
        on_capped: Callable[[float], None] = lambda _: None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.throttle = throttle
        self.throttled = throttled
        self.gated = gated
        self.on_capped = on_capped

    @classmethod
    def start(
        cls, throttle: Throttle, on_capped: Callable[[float], None], gated: bool = True
    ) -> Self:
        """The whole schedule, for a request not yet sent."""
        return cls(
            total=RETRIES,
            redirect=0,
            allowed_methods=None,
            status_forcelist=RETRIED_STATUSES,
            raise_on_status=False,
            raise_on_redirect=False,
            remove_headers_on_redirect=["Authorization"],
            throttle=throttle,
            on_capped=on_capped,
            gated=gated,
        )

    def new(self, **kwargs: Any) -> Self:
        kept = {
            "throttle": self.throttle,
            "throttled": self.throttled,
            "gated": self.gated,
            "on_capped": self.on_capped,
        }
        return super().new(**{**kept, **kwargs})

    def increment(
        self,
        method: str | None = None,
        url: str | None = None,
        response: BaseHTTPResponse | None = None,
        error: Exception | None = None,
        _pool: ConnectionPool | None = None,
        _stacktrace: TracebackType | None = None,
    ) -> Self:
        if isinstance(error, Urllib3SSLError) and _is_certificate_error(error):
            assert _pool is not None  # noqa: S101  a TLS error comes out of a pool
            raise MaxRetryError(_pool, url or "", error) from error
        if response is not None and response.status == 429 and self.throttled > 0:
            met = RequestHistory(method, url, None, 429, None)
            retries = self.new(throttled=self.throttled - 1, history=(*self.history, met))
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
            self.on_capped(asked_s)
            asked_s = LONGEST_WAIT_S
        wait_s = asked_s or self.get_backoff_time()  # "0" again and again would spend all retries
        if response is not None and response.status == 429 and self.gated:
            self.throttle.close(wait_s)
            self.throttle.leave(answered=False)
            self.throttle.enter()
        else:
            self.throttle.sleep(wait_s)


def _discard(response: BaseHTTPResponse) -> None:
    """Read a short body, to keep the connection; urllib3 would read any, also one without end."""
    with suppress(*NETWORK_ERRORS):
        response.read(_DISCARDED, decode_content=False)
    response.close()


def _is_certificate_error(error: Exception) -> bool:
    return "certificate" in str(error).lower()


# urllib3 rewrites the percent-encoding of a URL (%2f becomes %2F), but a next link
# is a signed cookie that must go back byte for byte. What was asked for is kept
# beside the request, for the connection to send.
_asked = threading.local()
_SENDABLE = re.compile(r"/[\x21-\x7e]*")


class _ExactTarget:
    def putrequest(self, method: str, url: str, *args: Any, **kwargs: Any) -> None:
        _asked.requests = getattr(_asked, "requests", 0) + 1
        target = getattr(_asked, "target", None)
        if target and url.startswith("/"):
            url = target
        super().putrequest(method, url, *args, **kwargs)  # type: ignore[misc]


class _HTTPConnection(_ExactTarget, HTTPConnection):
    pass


class _HTTPSConnection(_ExactTarget, HTTPSConnection):
    pass


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


class _Adapter(HTTPAdapter):
    """One thread's connections, with the run's TLS context."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self._context = context
        super().__init__(pool_connections=2, pool_maxsize=2)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._context, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, ssl_context=self._context, **kwargs)
        manager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
        return manager

    def cert_verify(self, conn: Any, url: str, verify: bool | str, cert: Any) -> None:
        if verify is True:
            # The context already holds what is trusted; loading it again for each
            # connection costs 20 ms.
            conn.cert_reqs = "CERT_REQUIRED"
        else:
            super().cert_verify(conn, url, verify, cert)  # type: ignore[no-untyped-call]

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> Any:
        target = re.sub(r"^[a-z]+://[^/?#]*", "", request.url or "", count=1)
        target = target.partition("#")[0]
        _asked.target = target if _SENDABLE.fullmatch(target) else None
        try:
            return super().send(request, *args, **kwargs)
        finally:
            _asked.target = None


class _Bearer(requests.auth.AuthBase):
    """Sets the header itself: with no auth given, requests would take one out of the URL."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token is not None:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class Transport:
    """Sends requests from any thread; one for a run.

    Args:
        throttle: The gate that they all pass.
        connect_timeout_s: For a connection.
        read_timeout_s: Between two arrivals of data.
        on_capped: Told how many seconds a ``Retry-After`` asked for beyond the longest wait.
    """

    def __init__(
        self,
        throttle: Throttle,
        connect_timeout_s: float,
        read_timeout_s: float,
        on_capped: Callable[[float], None] = lambda _: None,
    ) -> None:
        self.throttle = throttle
        self._timeout = (connect_timeout_s, read_timeout_s)
        self._on_capped = on_capped
        self._local = threading.local()
        self._known_settings: dict[str, Mapping[str, Any]] = {}  # by origin
        self._sessions: list[requests.Session] = []
        self._lock = threading.Lock()
        self._context: ssl.SSLContext | None = None

    def retries(self, gated: bool = True) -> Retries:
        """A whole schedule; not gated, for a request that holds no place in the throttle."""
        return Retries.start(self.throttle, self._on_capped, gated)

    def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        retries: Retries,
        token: str | None = None,
        data: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Send a request and return its answer, headers read and body not yet.

        Call it with a place taken in the throttle. The URL goes out byte for byte,
        redirects are not followed, and no cookie is kept.

        Raises:
            requests.RequestException: No answer came, after every retry.
            StoppedError: The run is ending.
        """
        session = self._session(url)
        # Not by the session, which would look for cookies and through a .netrc file each time.
        request = requests.Request(
            method, url, headers={**_HEADERS, **headers}, data=data, auth=_Bearer(token)
        ).prepare()
        request.url = url  # prepare has quoted it again
        adapter = session.get_adapter(url)
        adapter.max_retries = retries  # type: ignore[attr-defined]
        try:
            return session.send(
                request, timeout=self._timeout, allow_redirects=False, **self._settings(url)
            )
        except requests.RequestException:
            raise
        except ValueError as error:  # it looks where a redirect leads, also where none is followed
            raise requests.exceptions.InvalidURL(f"a redirect leads nowhere: {error}") from error

    def count_requests(self) -> int:
        """HTTP requests that this thread has sent since it was last asked."""
        count: int = getattr(_asked, "requests", 0)
        _asked.requests = 0
        return count

    def close(self) -> None:
        with self._lock:
            for session in self._sessions:
                session.close()

    def _session(self, url: str) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = requests.Session()
            # The affinity cookie would pin all threads to one web server.
            session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
            adapter = _Adapter(self._tls_context() if url.startswith("https:") else None)
            session.mount("https://", adapter)
            session.mount("http://", adapter)
            self._local.session = session
            with self._lock:
                self._sessions.append(session)
        return session

    def _settings(self, url: str) -> Mapping[str, Any]:
        """Proxies and certificates by the environment, which is looked through once a host."""
        origin = "/".join(url.split("/", 3)[:3])
        if origin not in self._known_settings:
            found = self._session(url).merge_environment_settings(url, {}, True, None, None)
            self._known_settings[origin] = {**found, "proxies": {}} if is_loopback(url) else found
        return self._known_settings[origin]

    def _tls_context(self) -> ssl.SSLContext:
        import truststore

        with self._lock:
            if self._context is None:
                self._context = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                self._context.load_verify_locations(certifi.where())
            return self._context
