"""Sign-in: the Bearer challenge, the token endpoint, and which tokens still hold.

https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow
"""

from __future__ import annotations

import re
import secrets
import uuid
from urllib.parse import parse_qsl

from ..api.answers import Answer, to_json
from ..control import Control
from ..data.clock import Clock

TENANT_ID = "5d3a4f0e-9f5b-4c0d-8a6e-3b1f0c7d2e91"
CLIENT_ID = "0b6c1f6a-7d2e-4b8f-9a35-c41d2e8f7a60"
CLIENT_SECRET = "emu8Q~not-a-secret-of-anyone"  # noqa: S105  opens the emulator only
TOKEN_LIFE_S = 3599

_ENTRA_JSON = "application/json; charset=utf-8"
_TOKEN_PATH = re.compile(r"/([^/]+)/oauth2/v2\.0/token")


class SignIn:
    """One tenant with one app registration."""

    def __init__(self, clock: Clock, control: Control) -> None:
        self._clock = clock
        self._control = control

    def challenge(self, origin: str) -> Answer:
        """401 with an empty body: the real body is not known."""
        uri = f"{origin}/{TENANT_ID}/oauth2/authorize"
        text = f"Bearer authorization_uri={uri}, resource_id={origin}/"
        return Answer(401, content_type=None, headers=[("WWW-Authenticate", text)])

    def accepts(self, authorization: str) -> bool:
        scheme, _, token = authorization.partition(" ")
        end = self._control.access_tokens.get(token.strip(), 0.0)
        return scheme.lower() == "bearer" and self._clock.now().timestamp() < end

    def answer(self, method: str, path: str, body: bytes, origin: str) -> Answer:
        """Grant a token or refuse it as Entra does; any other path is 404."""
        match = _TOKEN_PATH.fullmatch(path)
        if match is None or method != "POST":
            return Answer(404, b"<h1>404 Not Found</h1>", "text/html; charset=utf-8")
        form = dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
        refusal = _find_refusal(match[1], form, origin)
        return self._grant() if refusal is None else self._refuse(*refusal)

    def _grant(self) -> Answer:
        token = ".".join(secrets.token_urlsafe(size) for size in (24, 96, 48))
        self._control.access_tokens[token] = self._clock.now().timestamp() + TOKEN_LIFE_S
        document = {
            "token_type": "Bearer",
            "expires_in": TOKEN_LIFE_S,
            "ext_expires_in": TOKEN_LIFE_S,
            "access_token": token,
        }
        return Answer(body=to_json(document), content_type=_ENTRA_JSON)

    def _refuse(self, error: str, code: int, text: str) -> Answer:
        trace, correlation = str(uuid.uuid4()), str(uuid.uuid4())
        moment = f"{self._clock.now():%Y-%m-%d %H:%M:%S}Z"
        document = {
            "error": error,
            "error_description": f"AADSTS{code}: {text}\r\nTrace ID: {trace}\r\n"
            f"Correlation ID: {correlation}\r\nTimestamp: {moment}",
            "error_codes": [code],
            "timestamp": moment,
            "trace_id": trace,
            "correlation_id": correlation,
            "error_uri": f"https://login.microsoftonline.com/error?code={code}",
        }
        return Answer(401 if error == "invalid_client" else 400, to_json(document), _ENTRA_JSON)


def _find_refusal(tenant: str, form: dict[str, str], origin: str) -> tuple[str, int, str] | None:
    """Entra's error, code and words, for a tenant, an app or a scope that is not the one here."""
    client, grant, scope = (form.get(n, "") for n in ("client_id", "grant_type", "scope"))
    resource = scope.removesuffix("/.default")
    if tenant.lower() != TENANT_ID:
        return (
            "invalid_request", 90002,
            f"Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID"
            " and are signing into the correct cloud.",
        )  # fmt: skip
    if not grant:
        text = "The request body must contain the following parameter: 'grant_type'."
        return "invalid_request", 900144, text
    if grant != "client_credentials":
        text = f"The app requested an unsupported grant type '{grant}'."
        return "unsupported_grant_type", 70003, text
    if client.lower() != CLIENT_ID:
        return (
            "unauthorized_client", 700016,
            f"Application with identifier '{client}' was not found in the directory"
            " 'Contoso'. This can happen if the application has not been installed by the"
            " administrator of the tenant or consented to by any user in the tenant. You may"
            " have sent your authentication request to the wrong tenant.",
        )  # fmt: skip
    if form.get("client_secret") != CLIENT_SECRET:
        return (
            "invalid_client", 7000215,
            "Invalid client secret provided. Ensure the secret being sent in the request is"
            " the client secret value, not the client secret ID, for a secret added to app"
            f" '{client}'.",
        )  # fmt: skip
    if resource == scope:
        return (
            "invalid_scope", 1002012,
            f"The provided value for scope {scope} is not valid. Client credential flows"
            " must have a scope value with /.default suffixed to the resource identifier"
            " (application ID URI).",
        )  # fmt: skip
    if resource.rstrip("/") != origin:
        return (
            "invalid_resource", 500011,
            f"The resource principal named {resource} was not found in the tenant named"
            " Contoso. This can happen if the application has not been installed by the"
            " administrator of the tenant or consented to by any user in the tenant.",
        )  # fmt: skip
    return None
