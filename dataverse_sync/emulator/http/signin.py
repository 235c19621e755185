"""Sign-in: the Bearer challenge, both token endpoints, and which tokens still hold.

https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow
"""

from __future__ import annotations

import re
import secrets
import threading
import uuid
from urllib.parse import parse_qsl

from ..api.answers import Answer, to_json
from ..data.clock import Clock

_ENTRA_JSON = "application/json; charset=utf-8"
_TOKEN_PATH = re.compile(r"/([^/]+)/oauth2/(v2\.0/)?token")
_CONFIGURATION_PATH = re.compile(r"/([^/]+)/(?:v2\.0/)?\.well-known/openid-configuration")


class SignIn:
    """One tenant with one app registration."""

    def __init__(
        self, clock: Clock, tenant_id: str, client_id: str, client_secret: str, token_life_s: int
    ) -> None:
        self.tenant_id = tenant_id
        self.client_id = client_id
        self.client_secret = client_secret
        self.token_life_s = token_life_s
        self._clock = clock
        self._lock = threading.Lock()
        self._ends: dict[str, float] = {}

    def challenge(self, origin: str) -> Answer:
        """401 without a body: how Dataverse words one is not known."""
        text = (
            f"Bearer authorization_uri={origin}/{self.tenant_id}/oauth2/authorize,"
            f" resource_id={origin}/"
        )
        return Answer(401, content_type=None, headers=[("WWW-Authenticate", text)])

    def accepts(self, authorization: str) -> bool:
        scheme, _, token = authorization.partition(" ")
        with self._lock:
            end = self._ends.get(token.strip(), 0.0)
        return scheme.lower() == "bearer" and self._clock.now().timestamp() < end

    def expire_tokens(self) -> None:
        with self._lock:
            self._ends.clear()

    def answer_get(self, path: str, origin: str) -> Answer | None:
        """The discovery documents that sign-in libraries ask for."""
        match = _CONFIGURATION_PATH.fullmatch(path)
        if match:
            tenant = f"{origin}/{match[1]}"
            return Answer(
                body=to_json(
                    {
                        "token_endpoint": f"{tenant}/oauth2/v2.0/token",
                        "token_endpoint_auth_methods_supported": ["client_secret_post"],
                        "authorization_endpoint": f"{tenant}/oauth2/v2.0/authorize",
                        "issuer": f"{tenant}/v2.0",
                        "response_types_supported": ["code", "token"],
                        "subject_types_supported": ["pairwise"],
                    }
                ),
                content_type=_ENTRA_JSON,
            )
        if path == "/common/discovery/instance":
            endpoint = f"{origin}/{self.tenant_id}/v2.0/.well-known/openid-configuration"
            document = {"tenant_discovery_endpoint": endpoint, "api-version": "1.1", "metadata": []}
            return Answer(body=to_json(document), content_type=_ENTRA_JSON)
        return None

    def answer_post(self, path: str, body: bytes, origin: str) -> Answer | None:
        match = _TOKEN_PATH.fullmatch(path)
        if match is None:
            return None
        form = dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
        version_2 = match[2] is not None
        refusal = self._refusal(match[1], form, version_2, origin)
        return refusal or self._grant(form, version_2)

    def _refusal(
        self, tenant: str, form: dict[str, str], version_2: bool, origin: str
    ) -> Answer | None:
        client = form.get("client_id", "")
        if tenant.lower() not in {self.tenant_id.lower(), "contoso.onmicrosoft.com"}:
            return self._error(
                400, "invalid_request", 90002,
                f"Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID"
                " and are signing into the correct cloud.",
            )  # fmt: skip
        if "grant_type" not in form:
            return self._error(
                400, "invalid_request", 900144,
                "The request body must contain the following parameter: 'grant_type'.",
            )  # fmt: skip
        if form["grant_type"] != "client_credentials":
            return self._error(
                400, "unsupported_grant_type", 70003,
                f"The app requested an unsupported grant type '{form['grant_type']}'.",
            )  # fmt: skip
        if client.lower() != self.client_id.lower():
            return self._error(
                400, "unauthorized_client", 700016,
                f"Application with identifier '{client}' was not found in the directory"
                " 'Contoso'. This can happen if the application has not been installed by the"
                " administrator of the tenant or consented to by any user in the tenant. You may"
                " have sent your authentication request to the wrong tenant.",
            )  # fmt: skip
        if not secrets.compare_digest(
            form.get("client_secret", "").encode(), self.client_secret.encode()
        ):
            return self._error(
                401, "invalid_client", 7000215,
                "Invalid client secret provided. Ensure the secret being sent in the request is"
                " the client secret value, not the client secret ID, for a secret added to app"
                f" '{client}'.",
            )  # fmt: skip
        return self._wrong_resource(form, version_2, origin)

    def _wrong_resource(self, form: dict[str, str], version_2: bool, origin: str) -> Answer | None:
        if version_2:
            scope = form.get("scope", "")
            if not scope.endswith("/.default"):
                return self._error(
                    400, "invalid_scope", 1002012,
                    f"The provided value for scope {scope} is not valid. Client credential flows"
                    " must have a scope value with /.default suffixed to the resource identifier"
                    " (application ID URI).",
                )  # fmt: skip
            resource = scope.removesuffix("/.default")
        else:
            resource = form.get("resource", "")
        if resource.rstrip("/") != origin:
            return self._error(
                400, "invalid_resource", 500011,
                f"The resource principal named {resource} was not found in the tenant named"
                " Contoso. This can happen if the application has not been installed by the"
                " administrator of the tenant or consented to by any user in the tenant.",
            )  # fmt: skip
        return None

    def _grant(self, form: dict[str, str], version_2: bool) -> Answer:
        now = self._clock.now().timestamp()
        token = ".".join(secrets.token_urlsafe(size) for size in (24, 96, 48))
        with self._lock:
            self._ends[token] = now + self.token_life_s
        life = self.token_life_s
        if version_2:
            document: dict[str, object] = {
                "token_type": "Bearer",
                "expires_in": life,
                "ext_expires_in": life,
                "access_token": token,
            }
        else:
            document = {
                "token_type": "Bearer",
                "expires_in": str(life),
                "ext_expires_in": str(life),
                "expires_on": str(int(now) + life),
                "not_before": str(int(now) - 300),
                "resource": form["resource"],
                "access_token": token,
            }
        return Answer(body=to_json(document), content_type=_ENTRA_JSON)

    def _error(self, status: int, error: str, code: int, text: str) -> Answer:
        trace, correlation = str(uuid.uuid4()), str(uuid.uuid4())
        moment = f"{self._clock.now():%Y-%m-%d %H:%M:%S}Z"
        document = {
            "error": error,
            "error_description": f"AADSTS{code}: {text}\r\nTrace ID: {trace}\r\nCorrelation ID: "
            f"{correlation}\r\nTimestamp: {moment}",
            "error_codes": [code],
            "timestamp": moment,
            "trace_id": trace,
            "correlation_id": correlation,
            "error_uri": f"https://login.microsoftonline.com/error?code={code}",
        }
        return Answer(status, to_json(document), _ENTRA_JSON)
