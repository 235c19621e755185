"""Credentials of the app: each kind gives a token for a scope.

https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol

import msgspec

from dataverse_sync.config import Config
from dataverse_sync.dataverse.retries import NETWORK_ERRORS
from dataverse_sync.dataverse.sign_in_host import SignInHost, find_sign_in_host
from dataverse_sync.dataverse.transport import Transport, describe
from dataverse_sync.errors import AuthError
from dataverse_sync.redaction import Redactor

log = logging.getLogger(__name__)

RENEW_AT_AGE_S = 3000.0  # 50 minutes
RENEW_BEFORE_END_S = 300.0
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
class Token:
    """An access token, and what was learned while signing in."""

    value: str = field(repr=False)
    life_s: float  # from when it was asked for
    tenant_id: str | None = None  # of the token, if known
    api_date: datetime | None = None  # by the API's clock, when it was first reached

    def is_due(self, age_s: float) -> bool:
        """Whether to renew it: at 3,000 s of age or 300 s before its end, whichever is sooner.

        A token that lives for less than 600 s is used for half its life.
        """
        margin = min(RENEW_BEFORE_END_S, self.life_s / 2)
        return age_s >= min(RENEW_AT_AGE_S, self.life_s - margin)


class Credential(Protocol):
    """Gives tokens; one thread asks at a time."""

    def get_token(self, scope: str) -> Token:
        """A new token for this scope, such as ``https://ORG.crm.dynamics.com/.default``.

        Raises:
            AuthError: It was refused, or the host that gives it cannot be reached.
            UnreachableError: The API did not answer.
        """


class ClientSecret:
    """The secret of an app registration, exchanged for tokens at the API's sign-in host.

    Args:
        config: The app registration and the API.
        transport: What requests go through.
        redactor: Learns the secret.
    """

    def __init__(self, config: Config, transport: Transport, redactor: Redactor) -> None:
        self._config = config
        self._transport = transport
        self._redactor = redactor
        self._host: SignInHost | None = None
        redactor.add(config.client_secret)

    def get_token(self, scope: str) -> Token:
        if self._host is None:
            self._host = find_sign_in_host(self._config, self._transport, self._redactor)
        origin, tenant_id = self._host.origin, self._config.tenant_id or self._host.tenant_id
        form = {
            "grant_type": "client_credentials",
            "client_id": self._config.client_id,
            "client_secret": self._config.client_secret,
            "scope": scope,
        }
        url = f"{origin}/{tenant_id}/oauth2/v2.0/token"
        try:
            answer = self._transport.get_answer("POST", url, form)
        except NETWORK_ERRORS as error:
            raise AuthError(
                f"Sign-in: {origin} cannot be reached ({self._redactor.redact(describe(error))})",
                "Check the network and the proxy settings (HTTPS_PROXY).",
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
        return replace(token, tenant_id=tenant_id, api_date=self._host.api_date)

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
    """The token in an answer of the sign-in host.

    Raises:
        ValueError: There is none in it.
    """
    try:
        answer = msgspec.json.decode(body, type=_Answer, strict=False)  # numbers may come as text
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError("no access_token in the answer") from error
    if not re.fullmatch(r"[\x21-\x7e]+", answer.access_token) or not answer.expires_in >= 1:
        raise ValueError("no usable access_token in the answer")
    return Token(answer.access_token, answer.expires_in)
