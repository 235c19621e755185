"""Sign-in: the Bearer challenge, both token endpoints, and which tokens still hold.

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
_TOKEN_PATH = re.compile(r"/([^/]+)/oauth2/(v2\.0/)?token")


class _Refusal(Exception):
    """A sign-in that Entra refuses, in Entra's words."""

    def __init__(self, status: int, error: str, code: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.error = error
        self.code = code
        self.text = text


class SignIn:
    """One tenant with one app registration."""

    def __init__(self, clock: Clock, control: Control) -> None:
        self._clock = clock
        self._control = control

    def challenge(self, origin: str) -> Answer:
        """401 with an empty body: the real body is not known."""
        text = (
            f"Bearer authorization_uri={origin}/{TENANT_ID}/oauth2/authorize, resource_id={origin}/"
        )
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
        version_2 = match[2] is not None
        try:
            _check_client(match[1], form)
            _check_resource(form, version_2, origin)
        except _Refusal as refusal:
            return self._error(refusal)
        return self._grant(form, version_2)

    def _grant(self, form: dict[str, str], version_2: bool) -> Answer:
        now = int(self._clock.now().timestamp())
        token = ".".join(secrets.token_urlsafe(size) for size in (24, 96, 48))
        self._control.access_tokens[token] = now + TOKEN_LIFE_S
        document: dict[str, object] = {"token_type": "Bearer", "access_token": token}
        if version_2:
            document |= {"expires_in": TOKEN_LIFE_S, "ext_expires_in": TOKEN_LIFE_S}
        else:
            document |= {
                "expires_in": str(TOKEN_LIFE_S),
                "ext_expires_in": str(TOKEN_LIFE_S),
                "expires_on": str(now + TOKEN_LIFE_S),
                "not_before": str(now - 300),
                "resource": form["resource"],
            }
        return Answer(body=to_json(document), content_type=_ENTRA_JSON)

    def _error(self, refusal: _Refusal) -> Answer:
        trace, correlation = str(uuid.uuid4()), str(uuid.uuid4())
        moment = f"{self._clock.now():%Y-%m-%d %H:%M:%S}Z"
        document = {
            "error": refusal.error,
            "error_description": f"AADSTS{refusal.code}: {refusal.text}\r\nTrace ID: {trace}\r\n"
            f"Correlation ID: {correlation}\r\nTimestamp: {moment}",
            "error_codes": [refusal.code],
            "timestamp": moment,
            "trace_id": trace,
            "correlation_id": correlation,
            "error_uri": f"https://login.microsoftonline.com/error?code={refusal.code}",
        }
        return Answer(refusal.status, to_json(document), _ENTRA_JSON)


def _check_client(tenant: str, form: dict[str, str]) -> None:
    client = form.get("client_id", "")
    if tenant.lower() != TENANT_ID:
        raise _Refusal(
            400, "invalid_request", 90002,
            f"Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID"
            " and are signing into the correct cloud.",
        )  # fmt: skip
    if "grant_type" not in form:
        raise _Refusal(
            400, "invalid_request", 900144,
            "The request body must contain the following parameter: 'grant_type'.",
        )  # fmt: skip
    if form["grant_type"] != "client_credentials":
        raise _Refusal(
            400, "unsupported_grant_type", 70003,
            f"The app requested an unsupported grant type '{form['grant_type']}'.",
        )  # fmt: skip
    if client.lower() != CLIENT_ID:
        raise _Refusal(
            400, "unauthorized_client", 700016,
            f"Application with identifier '{client}' was not found in the directory"
            " 'Contoso'. This can happen if the application has not been installed by the"
            " administrator of the tenant or consented to by any user in the tenant. You may"
            " have sent your authentication request to the wrong tenant.",
        )  # fmt: skip
    if form.get("client_secret", "") != CLIENT_SECRET:
        raise _Refusal(
            401, "invalid_client", 7000215,
            "Invalid client secret provided. Ensure the secret being sent in the request is"
            " the client secret value, not the client secret ID, for a secret added to app"
            f" '{client}'.",
        )  # fmt: skip


def _check_resource(form: dict[str, str], version_2: bool, origin: str) -> None:
    resource = form.get("resource", "")
    if version_2:
        scope = form.get("scope", "")
        if not scope.endswith("/.default"):
            raise _Refusal(
                400, "invalid_scope", 1002012,
                f"The provided value for scope {scope} is not valid. Client credential flows"
                " must have a scope value with /.default suffixed to the resource identifier"
                " (application ID URI).",
            )  # fmt: skip
        resource = scope.removesuffix("/.default")
    if resource.rstrip("/") != origin:
        raise _Refusal(
            400, "invalid_resource", 500011,
            f"The resource principal named {resource} was not found in the tenant named"
            " Contoso. This can happen if the application has not been installed by the"
            " administrator of the tenant or consented to by any user in the tenant.",
        )  # fmt: skip
