"""Credentials of the app: each kind gives a token for a scope.

The service names the sign-in host in its answer to a request without a token: a Bearer
challenge with a host and a tenant. The secret goes to Microsoft's own sign-in hosts only, or
to loopback if the API itself is there.

https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow
https://learn.microsoft.com/power-apps/developer/data-platform/authenticate-oauth
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol
from urllib.parse import urlsplit

import msgspec

from dataverse_sync.config import TENANT, Config, is_loopback
from dataverse_sync.dataverse.error_codes import find_access_hint, is_state
from dataverse_sync.dataverse.odata import parse_error
from dataverse_sync.dataverse.retries import NETWORK_ERRORS, parse_date
from dataverse_sync.dataverse.transport import TRUST_HINT, Transport, describe, is_untrusted
from dataverse_sync.errors import AuthError, UnreachableError
from dataverse_sync.redaction import Redactor

log = logging.getLogger(__name__)

RENEW_AT_AGE_S = 3000.0  # 50 minutes
RENEW_BEFORE_END_S = 300.0
SIGN_IN_HOSTS = (
    "login.microsoftonline.com",
    "login.microsoftonline.us",
    "login.partner.microsoftonline.cn",
    "login.chinacloudapi.cn",
    "login.windows.net",
)
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
class SignInHost:
    """The host that gives tokens for the API, and the tenant that the API belongs to."""

    origin: str  # scheme, host and port: https://login.microsoftonline.com
    tenant_id: str
    api_date: datetime | None = None  # by the API's clock, when it named this host

    @property
    def authority(self) -> str:
        """Both in one, as OAuth names it: ``https://login.microsoftonline.com/TENANT``."""
        return f"{self.origin}/{self.tenant_id}"


@dataclass(frozen=True, slots=True)
class Token:
    """An access token, and what was learned while signing in."""

    value: str = field(repr=False)
    life_s: float  # from when it was asked for
    tenant_id: str | None = None  # of the token, if known
    authority: str | None = None  # that the service has named
    api_date: datetime | None = None  # by the API's clock, when it was first reached

    def is_due(self, age_s: float) -> bool:
        """Whether to renew it: at 3,000 s of age or 300 s before its end, whichever is sooner.

        A token that lives for less than 600 s is used for half its life.
        """
        margin = min(RENEW_BEFORE_END_S, self.life_s / 2)
        return age_s >= min(RENEW_AT_AGE_S, self.life_s - margin)


class Credential(Protocol):
    """Gives tokens; one thread asks at a time."""

    def reach_api(self) -> None:
        """Ask the API without a token, unless that was done; an UnreachableError if it is away."""

    def get_token(self, scope: str) -> Token:
        """A new token for this scope, such as ``https://ORG.crm.dynamics.com/.default``."""


class ClientSecret:
    """The secret of an app registration, exchanged for tokens at the API's sign-in host."""

    def __init__(
        self, config: Config, transport: Transport, redactor: Redactor, authority: str | None = None
    ) -> None:
        """``authority`` was named to an earlier run: the first token is asked for there."""
        self._config = config
        self._transport = transport
        self._redactor = redactor
        self._host: SignInHost | None = None
        self._known = parse_authority(authority or "", config.api_url)
        redactor.add(config.client_secret)

    def reach_api(self) -> None:
        if self._host is None:
            self._host = self._get_sign_in_host()

    def get_token(self, scope: str) -> Token:
        known, self._known = self._known, None
        failure: AuthError | None = None
        if known is not None:
            try:
                return self._get_token_from(known, scope)
            except AuthError as error:
                log.info("%s; the service is asked where to sign in", error.message)
                failure = error
        self.reach_api()
        assert self._host is not None  # noqa: S101  else it is raised why
        if failure and known and known.authority == self._host.authority:
            raise failure
        return self._get_token_from(self._host, scope)

    def _get_token_from(self, host: SignInHost, scope: str) -> Token:
        origin, tenant_id = host.origin, self._config.tenant_id or host.tenant_id
        form = {
            "grant_type": "client_credentials",
            "client_id": self._config.client_id,
            "client_secret": self._config.client_secret,
            "scope": scope,
        }
        url = f"{origin}/{tenant_id}/oauth2/v2.0/token"
        try:
            answer = self._transport.get_answer(url, form)
        except NETWORK_ERRORS as error:
            raise AuthError(
                f"Sign-in: {origin} cannot be reached ({self._redactor.redact(describe(error))})",
                TRUST_HINT
                if is_untrusted(error)
                else "Check the network and the proxy settings (HTTPS_PROXY).",
            ) from None
        if answer.status != 200:
            raise self._refused(answer.status, answer.body)
        try:
            token = parse_token(answer.body)
        except ValueError as error:
            raise AuthError(
                f"Sign-in: {origin} answered, but there is {error}",
                "Is a proxy in between? It may answer in place of the sign-in host.",
            ) from None
        log.debug("signed in, tenant %s", tenant_id)
        return replace(token, tenant_id=tenant_id, authority=host.authority, api_date=host.api_date)

    def _get_sign_in_host(self) -> SignInHost:
        """Ask the API without a token, and read the host out of its challenge."""
        api = self._config.api_origin
        try:
            answer = self._transport.get_answer(self._config.api_url)
        except NETWORK_ERRORS as error:
            raise UnreachableError(
                f"{api} cannot be reached ({self._redactor.redact(describe(error))})",
                TRUST_HINT
                if is_untrusted(error)
                else "Check DATAVERSE_API_URL, the network and the proxy settings (HTTPS_PROXY).",
            ) from None
        status = answer.status
        code, message = parse_error(answer.body)
        if is_state(code):
            raise UnreachableError(
                self._redactor.redact(f"{api} answered {status} {code}: {message[:500]}"),
                find_access_hint(status, code, message),
            )
        if status >= 500 or status == 429:
            raise UnreachableError(
                f"{api} answered {status}, after every retry", "Run again later."
            )
        found = parse_challenge(answer.headers.getlist("WWW-Authenticate"))
        if found is None:
            raise AuthError(
                f"Sign-in: {api} answered {status} and did not say where to sign in",
                "Is DATAVERSE_API_URL the Web API of a Dataverse environment "
                "(https://ORG.api.crm.dynamics.com/api/data/v9.2/)?",
            )
        if not is_allowed_host(found.origin, self._config.api_url):
            raise AuthError(
                f"Sign-in: the service names {found.origin}, which is not a sign-in host of "
                "Microsoft; the secret was not sent",
                "Check DATAVERSE_API_URL.",
            )
        return replace(found, api_date=parse_date(answer.headers.get("Date")))

    def _refused(self, status: int, body: bytes) -> AuthError:
        try:
            said = msgspec.json.decode(body, type=_Refusal)
            lines = str(said.error_description).splitlines() or [str(said.error)]
        except (msgspec.DecodeError, RecursionError):
            lines = [""]
        description = self._redactor.redact(lines[0])[:500] or "no reason given"
        code = re.search(r"AADSTS\d+", description)
        hint = _HINTS.get(code.group(), "") if code else ""
        return AuthError(
            f"Sign-in was refused ({status}): {description}",
            hint or "Check DATAVERSE_CLIENT_ID, DATAVERSE_CLIENT_SECRET and DATAVERSE_TENANT_ID.",
        )


class _Refusal(msgspec.Struct):
    error: object = ""
    error_description: object = ""


class _Answer(msgspec.Struct):
    access_token: str
    expires_in: float = 3599.0


def parse_token(body: bytes) -> Token:
    """The token in an answer of the sign-in host; a ValueError if there is none in it."""
    try:
        answer = msgspec.json.decode(body, type=_Answer, strict=False)  # numbers may come as text
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError("no access_token in the answer") from error
    if not re.fullmatch(r"[\x21-\x7e]+", answer.access_token) or not answer.expires_in >= 1:
        raise ValueError("no usable access_token in the answer")
    return Token(answer.access_token, answer.expires_in)


def parse_challenge(headers: Sequence[str]) -> SignInHost | None:
    """The sign-in host and tenant out of ``WWW-Authenticate`` headers; None without a Bearer one.

    The header comes with values unquoted, any order and spacing, other schemes beside it.
    """
    for header in headers:
        parameters = _bearer_parameters(header)
        uri = parameters.get("authorization_uri") or parameters.get("authorization")
        if uri is None:
            continue
        try:
            parts = urlsplit(uri)
            _ = parts.port
        except ValueError:
            continue
        tenant = parts.path.lstrip("/").partition("/")[0]
        if parts.hostname and not parts.username and TENANT.fullmatch(tenant):
            return SignInHost(f"{parts.scheme.lower()}://{parts.netloc.lower()}", tenant)
    return None


def parse_authority(text: str, api_url: str) -> SignInHost | None:
    """The host and tenant of an authority; None if the secret may not be sent there."""
    host = parse_challenge([f'Bearer authorization_uri="{text}"'])
    return host if host and is_allowed_host(host.origin, api_url) else None


def _bearer_parameters(header: str) -> Mapping[str, str]:
    # The text before the first scheme, then each scheme and the text up to the next.
    _, *parts = _SCHEME.split(header)
    for scheme, text in zip(parts[::2], parts[1::2], strict=True):
        if scheme.lower() == "bearer":
            return {name.lower(): value.strip('"') for name, value in _PARAMETER.findall(text)}
    return {}


def is_allowed_host(host: str, api_url: str) -> bool:
    """Whether the secret may be sent to this host."""
    parts = urlsplit(host)
    if is_loopback(host):
        return is_loopback(api_url)
    return parts.scheme == "https" and parts.hostname in SIGN_IN_HOSTS and parts.port in (None, 443)
