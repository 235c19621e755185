"""Send one HTTP request well: retries, throttling, exact URLs, no cookies, verified TLS.

Knows HTTP, not Dataverse. One ``Transport`` serves all threads of a run; a session
belongs to one thread, since requests does not promise that it may be shared
(https://github.com/psf/requests/issues/2766).
"""

from __future__ import annotations

import logging
import re
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from http.cookiejar import DefaultCookiePolicy
from typing import Any, TypeVar

import certifi
import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPHeaderDict
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import (
    ConnectTimeoutError,
    MaxRetryError,
    NewConnectionError,
    ProtocolError,
    ProxyError,
)

from dataverse_sync.config import is_loopback
from dataverse_sync.dataverse.retries import NETWORK_ERRORS, Retries, read_start
from dataverse_sync.dataverse.throttle import Throttle
from dataverse_sync.version import __version__

log = logging.getLogger(__name__)

USER_AGENT = f"dataverse-sync/{__version__}"
_ANSWER_LIMIT = 65536  # bytes of an answer of the sign-in
_HEADERS = {"User-Agent": USER_AGENT, "Accept-Encoding": "gzip"}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of any status, read to its end or to a limit."""

    status: int
    body: bytes
    headers: HTTPHeaderDict


class BrokenBodyError(Exception):
    """A body came whole but is damaged, so that the request is worth sending again."""


# Connections


class _ThisThread(threading.local):
    """What a thread's connections send as the target, and count.

    urllib3 rewrites the percent-encoding of a URL (%2f becomes %2F), but a next link is a
    signed cookie that must go back byte for byte. So the adapter leaves here what was asked
    for, and the connection sends that.
    """

    target: str | None = None  # path and query of the request that is being sent
    sent = 0  # HTTP requests so far, retries too


_this_thread = _ThisThread()
# What is wrong with a certificate that no authority helps against, by OpenSSL, Windows, macOS.
_OTHER_FLAW = re.compile(
    r"expired|not yet valid|validity period|mismatch|not valid for|does not match|revoked",
    re.IGNORECASE,
)
TRUST_HINT = (
    "Its certificate is not trusted here; is a proxy in between? Add the authority that signed it "
    "to the system's certificate store, or name its PEM file in REQUESTS_CA_BUNDLE."
)
_SENDABLE = re.compile(r"/[\x21-\x7e]*")


class _ExactTarget:
    def putrequest(self, method: str, url: str, *args: Any, **kwargs: Any) -> None:
        _this_thread.sent += 1
        if _this_thread.target and url.startswith("/"):
            url = _this_thread.target
        super().putrequest(method, url, *args, **kwargs)  # type: ignore[misc]


class _HTTPConnection(_ExactTarget, HTTPConnection):
    pass


class _HTTPSConnection(_ExactTarget, HTTPSConnection):
    pass


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


_POOLS = {"http": _HTTPPool, "https": _HTTPSPool}


class _Adapter(HTTPAdapter):
    """One thread's connections, with the run's TLS context."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self._context = context
        super().__init__(pool_connections=2, pool_maxsize=2)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._context, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, ssl_context=self._context, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager

    def cert_verify(self, conn: Any, url: str, verify: bool | str, cert: Any) -> None:
        if verify is True:
            # The context already holds what is trusted; loading it again costs 20 ms each time.
            conn.cert_reqs = "CERT_REQUIRED"
        else:
            super().cert_verify(conn, url, verify, cert)  # type: ignore[no-untyped-call]

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> Any:
        target = re.sub(r"^[a-z]+://[^/?#]*", "", request.url or "", count=1).partition("#")[0]
        _this_thread.target = target if _SENDABLE.fullmatch(target) else None
        try:
            return super().send(request, *args, **kwargs)
        finally:
            _this_thread.target = None


class Transport:
    """Sends requests from any thread; one for a run."""

    def __init__(self, throttle: Throttle, connect_timeout_s: float, read_timeout_s: float) -> None:
        self.throttle = throttle
        self._timeout = (connect_timeout_s, read_timeout_s)  # the second between two arrivals
        self._local = threading.local()
        self._known_settings: dict[str, Mapping[str, Any]] = {}  # by origin
        self._sessions: list[requests.Session] = []
        self._lock = threading.Lock()
        self._context: ssl.SSLContext | None = None

    @property
    def sent(self) -> int:
        """HTTP requests that this thread has sent so far, retries too."""
        return _this_thread.sent

    def fetch(
        self,
        url: str,
        headers: Mapping[str, str],
        read: Callable[[requests.Response], T],
        retries: Retries,
        form: Mapping[str, str] | None = None,
    ) -> T:
        """Send a GET, or a form, again while its schedule lasts, until the answer was read whole.

        Call it with a place taken in the throttle, unless its retries are not gated. The URL goes
        out byte for byte; redirects are not followed, and no cookie is kept.

        Args:
            read: Takes an answer whose body is still to be read. If it raises a network error
                or BrokenBodyError, the request is sent again.
            retries: What is left of the schedule.

        Raises:
            BrokenBodyError, NETWORK_ERRORS: No answer came whole, after every retry.
            StoppedError: The run is ending.
        """
        while True:
            with self._send(url, headers, retries, form) as response:
                try:
                    return read(response)
                except (BrokenBodyError, *NETWORK_ERRORS) as error:
                    log.debug("the answer broke off (%s)", type(error).__name__)
                    spent: Any = response.raw.retries
                    broken = ProtocolError("the body broke off")
                    try:
                        retries = spent.increment(response.request.method, url, error=broken)
                    except MaxRetryError:
                        raise error from None
            retries.sleep()

    def get_answer(self, url: str, form: Mapping[str, str] | None = None) -> Answer:
        """A short answer of any status, for the sign-in; it does not pass the gate.

        The threads that hold the places may be waiting for this very token.
        """
        read = partial(read_answer, limit=_ANSWER_LIMIT)
        retries = Retries.start(self.throttle, gated=False)
        return self.fetch(url, {"Accept": "application/json"}, read, retries, form)

    def _send(
        self,
        url: str,
        headers: Mapping[str, str],
        retries: Retries,
        form: Mapping[str, str] | None,
    ) -> requests.Response:
        session = self._session(url)
        # Step by step: as a whole it would quote the URL again, look for a password in it, and
        # the session would look for cookies and through a .netrc file each time.
        prepared = requests.PreparedRequest()
        prepared.method, prepared.url = "POST" if form else "GET", url
        prepared.prepare_headers({**_HEADERS, **headers})
        prepared.prepare_cookies({})
        prepared.prepare_body(form, None)
        session.get_adapter(url).max_retries = retries  # type: ignore[attr-defined]
        settings = self._settings(url)
        try:
            return session.send(prepared, timeout=self._timeout, allow_redirects=False, **settings)
        except requests.RequestException:
            raise
        except ValueError as error:  # it looks where a redirect leads, also where none is followed
            raise requests.exceptions.InvalidURL(
                f"the address of a redirect or of the proxy is not a URL: {error}"
            ) from error

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


def read_answer(response: requests.Response, limit: int) -> Answer:
    """An answer with at most so many bytes of its body."""
    raw = response.raw
    return Answer(raw.status, read_start(raw, limit), raw.headers)


# Errors


def describe(error: Exception) -> str:
    """The innermost cause of a network error, without the layers of libraries around it."""
    inner: object = error
    for _ in range(6):
        # The reason of a TLS error is a word, which says less than its text.
        layers = (getattr(inner, "reason", None), *getattr(inner, "args", ()))
        deeper = next((layer for layer in layers if isinstance(layer, BaseException)), None)
        if deeper is None:
            break
        inner = deeper
    text = re.sub(r"<[^>]*>:?\s*|\w*Connection(Pool)?\([^)]*\):?\s*", "", str(inner))
    return " ".join(text.split())[:300].rstrip(".") or type(inner).__name__


def is_untrusted(error: BaseException | None) -> bool:
    """Whether a certificate was refused because nothing here trusts who signed it."""
    layers: list[object] = [error]
    for layer in layers:  # grows while it is looked through
        if isinstance(layer, ssl.SSLCertVerificationError):
            return not _OTHER_FLAW.search(str(layer))
        if isinstance(layer, BaseException) and len(layers) < 50:
            layers += [*layer.args, getattr(layer, "reason", None), layer.__cause__]
    return False


def is_unreachable(error: requests.RequestException) -> bool:
    """Whether no connection could be made."""
    cause = error.args[0] if error.args else None
    reason = cause.reason if isinstance(cause, MaxRetryError) else cause
    return isinstance(reason, NewConnectionError | ConnectTimeoutError | ProxyError)
