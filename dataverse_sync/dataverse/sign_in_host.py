"""Find the sign-in host: the service names it in its answer to a request without a token.

The answer is a Bearer challenge with a host and a tenant. The secret goes to Microsoft's
own sign-in hosts only, or to loopback if the API itself is there.

https://learn.microsoft.com/power-apps/developer/data-platform/authenticate-oauth
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from dataverse_sync.config import TENANT, Config, is_loopback
from dataverse_sync.dataverse.retries import NETWORK_ERRORS
from dataverse_sync.dataverse.transport import Transport, describe
from dataverse_sync.errors import AuthError, UnreachableError
from dataverse_sync.redaction import Redactor

SIGN_IN_HOSTS = (
    "login.microsoftonline.com",
    "login.microsoftonline.us",
    "login.partner.microsoftonline.cn",
    "login.chinacloudapi.cn",
    "login.windows.net",
)
_PARAMETER = re.compile(r'([A-Za-z_]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^\s,"]+)')
_SCHEME = re.compile(r"(?:^|,)\s*([A-Za-z][A-Za-z0-9_-]*)(?=\s+[A-Za-z_]+\s*=|\s*,|\s*$)")


@dataclass(frozen=True, slots=True)
class SignInHost:
    """The host that gives tokens for the API, and the tenant that the API belongs to."""

    origin: str  # scheme, host and port: https://login.microsoftonline.com
    tenant_id: str
    api_date: datetime | None = None  # by the API's clock, when it named this host


def find_sign_in_host(config: Config, transport: Transport, redactor: Redactor) -> SignInHost:
    """Ask the API without a token, and read the host out of its challenge.

    Raises:
        UnreachableError: The API did not answer.
        AuthError: It named no host, or a host that the secret must not go to.
    """
    try:
        answer = transport.get_answer("GET", config.api_url)
    except NETWORK_ERRORS as error:
        raise UnreachableError(
            f"{config.api_origin} cannot be reached ({redactor.redact(describe(error))})",
            "Check DATAVERSE_API_URL, the network and the proxy settings (HTTPS_PROXY).",
        ) from None
    status = answer.status
    if status >= 500 or status == 429:
        raise UnreachableError(
            f"{config.api_origin} answered {status}, after every retry",
            "Run again later.",
        )
    found = parse_challenge(answer.headers.getlist("WWW-Authenticate"))
    if found is None:
        raise AuthError(
            f"Sign-in: {config.api_origin} answered {status} and did not say where to sign in",
            "Is DATAVERSE_API_URL the Web API of a Dataverse environment "
            "(https://ORG.api.crm.dynamics.com/api/data/v9.2/)?",
        )
    if not is_allowed_host(found.origin, config.api_url):
        raise AuthError(
            f"Sign-in: the service names {found.origin}, which is not a sign-in host of "
            "Microsoft; the secret was not sent",
            "Check DATAVERSE_API_URL.",
        )
    return replace(found, api_date=_parse_date(answer.headers.get("Date")))


def parse_challenge(headers: Sequence[str]) -> SignInHost | None:
    """The sign-in host and tenant out of ``WWW-Authenticate`` headers; None without a Bearer one.

    The header is not well-formed in the wild: values unquoted, any order and
    spacing, other schemes beside it.
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
    """Whether the secret may be sent to this host."""
    parts = urlsplit(host)
    if is_loopback(host):
        return is_loopback(api_url)
    return parts.scheme == "https" and parts.hostname in SIGN_IN_HOSTS and parts.port in (None, 443)


def _parse_date(text: str | None) -> datetime | None:
    try:
        return parsedate_to_datetime(text) if text else None
    except ValueError:
        return None
