"""Sign in: find the sign-in host in the service's challenge, get a token, keep it fresh.

One token serves all threads. The secret goes to Microsoft's sign-in hosts only,
or to loopback when the API itself is there.

https://learn.microsoft.com/power-apps/developer/data-platform/authenticate-oauth
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import ProtocolError

from dataverse_sync.config import TENANT, Config, is_loopback
from dataverse_sync.dataverse.transport import NETWORK_ERRORS, Transport
from dataverse_sync.errors import AuthError, RunError, UnreachableError
from dataverse_sync.redaction import Redactor

log = logging.getLogger(__name__)

SIGN_IN_HOSTS = (
    "login.microsoftonline.com",
    "login.microsoftonline.us",
    "login.partner.microsoftonline.cn",
    "login.chinacloudapi.cn",
    "login.windows.net",
)
RENEW_AT_AGE_S = 3000.0  # 50 minutes
RENEW_BEFORE_END_S = 300.0
_ANSWER_LIMIT = 65536  # bytes of a sign-in answer that are read
_PARAMETER = re.compile(r'([A-Za-z_]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^\s,"]+)')
_SCHEME = re.compile(r"(?:^|,)\s*([A-Za-z][A-Za-z0-9_-]*)(?=\s+[A-Za-z_]+\s*=|\s*,|\s*$)")
_HINTS = {
    "AADSTS7000215": "The secret is wrong: set DATAVERSE_CLIENT_SECRET to the secret's value, "
    "not its id.",
    "AADSTS7000222": "The secret has expired: make a new one in the app registration and set "
    "DATAVERSE_CLIENT_SECRET.",
    "AADSTS700016": "The app is not known in this tenant: check DATAVERSE_CLIENT_ID and "
    "DATAVERSE_TENANT_ID.",
    "AADSTS90002": "There is no such tenant: check DATAVERSE_TENANT_ID.",
    "AADSTS500011": "The scope is not known in this tenant: check DATAVERSE_API_URL and "
    "DATAVERSE_SCOPE.",
}


@dataclass(frozen=True, slots=True)
class SignIn:
    """Where the service sends those who want in."""

    host: str  # scheme, host and port: https://login.microsoftonline.com
    tenant_id: str


@dataclass(frozen=True, slots=True)
class Token:
    """An access token; moments on the clock that only goes forward."""

    value: str = field(repr=False)
    got_at: float
    expires_at: float

    def is_due(self, now: float) -> bool:
        """Whether to renew: at 3,000 s of age or 300 s before the end, whichever is sooner.

        A token that lives for less than 600 s is used for half its life.
        """
        margin = min(RENEW_BEFORE_END_S, (self.expires_at - self.got_at) / 2)
        return now >= self.got_at + RENEW_AT_AGE_S or now >= self.expires_at - margin


def parse_challenge(headers: Sequence[str]) -> SignIn | None:
    """The sign-in host and tenant out of ``WWW-Authenticate`` headers; None without a Bearer one.

    The header is not well-formed in the wild: values unquoted, any order and
    spacing, other schemes beside it.
    """
    for header in headers:
        uri = _bearer_parameters(header).get("authorization_uri") or _bearer_parameters(header).get(
            "authorization"
        )
        if uri is None:
            continue
        try:
            parts = urlsplit(uri)
            _ = parts.port
        except ValueError:
            continue
        tenant = parts.path.lstrip("/").partition("/")[0]
        if parts.hostname and not parts.username and TENANT.fullmatch(tenant):
            return SignIn(f"{parts.scheme.lower()}://{parts.netloc.lower()}", tenant)
    return None


def _bearer_parameters(header: str) -> Mapping[str, str]:
    starts = [(match.group(1).lower(), match.end()) for match in _SCHEME.finditer(header)]
    for index, (scheme, start) in enumerate(starts):
        if scheme == "bearer":
            end = starts[index + 1][1] if index + 1 < len(starts) else len(header)
            return {
                name.lower(): value.strip('"')
                for name, value in _PARAMETER.findall(header[start:end])
            }
    return {}


def is_allowed_host(host: str, api_url: str) -> bool:
    """Whether the secret may be sent there."""
    parts = urlsplit(host)
    if is_loopback(host):
        return is_loopback(api_url)
    return parts.scheme == "https" and parts.hostname in SIGN_IN_HOSTS and parts.port in (None, 443)


def parse_token(body: bytes, now: float) -> Token:
    """A token out of the sign-in answer; numbers may come as text.

    Raises:
        ValueError: There is none in it.
    """
    try:
        answer = json.loads(body)
        value, life_s = answer["access_token"], float(answer.get("expires_in", 3599))
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise ValueError("no access_token in the answer") from error
    if not isinstance(value, str) or not re.fullmatch(r"[\x21-\x7e]+", value) or not life_s >= 1:
        raise ValueError("no usable access_token in the answer")
    return Token(value, now, now + life_s)


class Auth:
    """The token of a run: got once, renewed by one thread while the others wait.

    Args:
        config: The app registration and the API.
        transport: What requests go through.
        redactor: Learns the secret and every token.
        clock: Seconds that only go forward, so a wall clock that jumps does not matter.
    """

    def __init__(
        self,
        config: Config,
        transport: Transport,
        redactor: Redactor,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._transport = transport
        self._redactor = redactor
        self._clock = clock
        self._lock = threading.Lock()
        self._sign_in: SignIn | None = None
        self._token: Token | None = None
        self._failure: RunError | None = None
        self.server_date: datetime | None = None  # by the API, when it was first reached
        redactor.add(config.client_secret)

    @property
    def tenant_id(self) -> str | None:
        return self._sign_in.tenant_id if self._sign_in else None

    def get_token(self) -> str:
        """A token that is good for a while; safe to call from any thread.

        Raises:
            AuthError: The sign-in was refused, or its host cannot be reached.
            UnreachableError: The API did not answer, so there is no challenge.
        """
        with self._lock:
            if self._token is None or self._token.is_due(self._clock()):
                self._token = self._try_once()
            return self._token.value

    def renew(self, refused: str) -> str:
        """A token other than the one that was refused; the first thread gets it for all."""
        with self._lock:
            if self._token is None or self._token.value == refused:
                self._token = self._try_once()
            return self._token.value

    def _try_once(self) -> Token:
        # A sign-in that failed ends the run: the threads behind the lock must not each
        # spend a whole schedule of retries on it, one after the other.
        if self._failure is None:
            try:
                return self._get_new_token()
            except RunError as error:
                self._failure = error
        raise self._failure

    def _get_new_token(self) -> Token:
        if self._sign_in is None:
            self._sign_in = self._discover()
        sign_in = self._sign_in
        url = f"{sign_in.host}/{sign_in.tenant_id}/oauth2/v2.0/token"
        form = {
            "grant_type": "client_credentials",
            "client_id": self._config.client_id,
            "client_secret": self._config.client_secret,
            "scope": self._config.token_scope,
        }
        now = self._clock()
        try:
            status, body, _ = self._send("POST", url, form)
        except (requests.RequestException, *NETWORK_ERRORS) as error:
            raise AuthError(
                f"Sign-in: {sign_in.host} cannot be reached ({self._describe(error)})",
                "Check the network and the proxy settings (HTTPS_PROXY).",
            ) from None
        if status != 200:
            raise self._refused(status, body)
        try:
            token = parse_token(body, now)
        except ValueError as error:
            raise AuthError(
                f"Sign-in: {sign_in.host} answered, but there is {error}",
                "Is a proxy in between? It may answer in place of the sign-in host.",
            ) from None
        self._redactor.add(token.value)
        log.debug("signed in, tenant %s", sign_in.tenant_id)
        return token

    def _discover(self) -> SignIn:
        """Ask the API without a token, and read where it sends us."""
        url = self._config.api_url
        try:
            status, _, response = self._send("GET", url)
        except (requests.RequestException, *NETWORK_ERRORS) as error:
            raise UnreachableError(
                f"{self._config.api_origin} cannot be reached ({self._describe(error)})",
                "Check DATAVERSE_API_URL, the network and the proxy settings (HTTPS_PROXY).",
            ) from None
        self.server_date = _parse_date(response.headers.get("Date"))
        if status >= 500 or status == 429:
            raise UnreachableError(
                f"{self._config.api_origin} answered {status}, after every retry",
                "Run again later.",
            )
        challenges = response.raw.headers.getlist("WWW-Authenticate")
        sign_in = parse_challenge(challenges)
        if sign_in is None:
            raise AuthError(
                f"Sign-in: {self._config.api_origin} answered {status} and did not say where to "
                "sign in",
                "Is DATAVERSE_API_URL the Web API of a Dataverse environment "
                "(https://ORG.api.crm.dynamics.com/api/data/v9.2/)?",
            )
        if not is_allowed_host(sign_in.host, url):
            raise AuthError(
                f"Sign-in: the service names {sign_in.host}, which is no sign-in host of "
                "Microsoft; the secret was not sent",
                "Check DATAVERSE_API_URL.",
            )
        tenant_id = self._config.tenant_id or sign_in.tenant_id
        return SignIn(sign_in.host, tenant_id)

    def _send(
        self, method: str, url: str, form: Mapping[str, str] | None = None
    ) -> tuple[int, bytes, requests.Response]:
        """One request of the sign-in; it does not count against the gate of data requests."""
        headers = {"Accept": "application/json"}
        # Not gated: those who hold the places may be waiting for this very token.
        retries = self._transport.retries(gated=False)
        while True:
            response = self._transport.send(
                method, url, headers=headers, retries=retries, data=form
            )
            with response:
                try:
                    body = response.raw.read(_ANSWER_LIMIT, decode_content=True)
                except NETWORK_ERRORS as error:
                    spent: Any = response.raw.retries
                    retries = spent.increment(method, url, error=ProtocolError(str(error)))
                else:
                    return response.status_code, body, response
            retries.sleep()

    def _refused(self, status: int, body: bytes) -> AuthError:
        answer: Any = None
        try:
            answer = json.loads(body)
            description = str(answer["error_description"]).splitlines()[0]
        except (ValueError, KeyError, TypeError, IndexError, RecursionError):
            description = str(answer.get("error", "")) if isinstance(answer, dict) else ""
        description = self._redactor.redact(description)[:500] or "no reason given"
        code = re.search(r"AADSTS\d+", description)
        hint = _HINTS.get(code.group(), "") if code else ""
        return AuthError(
            f"Sign-in was refused ({status}): {description}",
            hint or "Check DATAVERSE_CLIENT_ID, DATAVERSE_CLIENT_SECRET and DATAVERSE_TENANT_ID.",
        )

    def _describe(self, error: Exception) -> str:
        return self._redactor.redact(describe(error))


def describe(error: Exception) -> str:
    """The heart of a network error, without the layers of libraries around it."""
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


def _parse_date(text: str | None) -> datetime | None:
    try:
        return parsedate_to_datetime(text) if text else None
    except ValueError:
        return None
