"""Name what the service refused: its own code and words, and the way out.

https://learn.microsoft.com/power-apps/developer/data-platform/webapi/compose-http-requests-handle-errors
"""

from __future__ import annotations

import requests

from dataverse_sync.dataverse import odata
from dataverse_sync.dataverse.error_codes import find_access_hint, normalize_code
from dataverse_sync.dataverse.retries import NETWORK_ERRORS, read_start
from dataverse_sync.errors import RequestError
from dataverse_sync.model import PageRequest
from dataverse_sync.redaction import Redactor

GOES_ON = "it goes on from the last committed page."
_ERROR_LIMIT = 65536  # bytes of an error body that are read
_HINTS = {
    401: "The token is refused, also a new one: is the app an application user here?",
    404: "Is it the entity set name (plural), and spelt as the API spells it?",
    429: "The service was busy for too long. Run again later, or with fewer --workers.",
}


def build_refusal(
    request: PageRequest, response: requests.Response, sent: int, redactor: Redactor
) -> RequestError:
    """The error for an answer whose status is not 200, after so many HTTP requests."""
    status, headers = response.status_code, response.headers
    try:
        body = read_start(response.raw, _ERROR_LIMIT)
    except NETWORK_ERRORS:
        body = b""
    code, message = odata.parse_error(body)
    usual = _HINTS.get(status, f"Run again later; {GOES_ON}" if status >= 500 else "")
    hint = find_access_hint(status, code, message) or usual
    if 300 <= status < 400:
        message = f"redirected to {headers.get('Location', 'nowhere')[:200]}"
        hint = "Set DATAVERSE_API_URL to the address of the Web API itself."
    said = f"{status} {code}".rstrip() + (f": {message[:500].rstrip('.')}" if message else "")
    request_id = headers.get("x-ms-service-request-id", headers.get("REQ_ID", ""))
    named = f" (request {request_id[:64]})" if request_id else ""
    return RequestError(
        redactor.redact(f"{request}: the service answered {said}{named}"),
        hint,
        status=status,
        code=redactor.redact(normalize_code(code))[:64],
        requests=sent,
        request=request,
    )
