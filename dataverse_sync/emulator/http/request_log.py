"""The log of requests, one entry each, for tests to look at."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from email.message import Message
from urllib.parse import unquote, unquote_plus

from ..api.query import API_PATH


@dataclass(slots=True)
class LoggedRequest:
    """One request and its outcome; the last six fields are set while it is answered."""

    method: str
    target: str  # path and query exactly as received
    path: str
    query: dict[str, str]
    headers: Message  # by name, whatever its case
    kind: str = "other"
    prefer: str = ""
    began_at: float = field(default_factory=time.monotonic)
    in_flight: int = 1  # requests that were being answered when it began, itself among them
    admitted: bool = False  # counted by the limits
    ended_at: float | None = None
    status: int | None = None
    records: int = 0
    fault: str | None = None
    retry_after: str | None = None

    @classmethod
    def of(cls, method: str, target: str, headers: Message) -> LoggedRequest:
        """Decode for the log only: a wrong query is refused when it is answered."""
        path, _, text = target.partition("?")
        pairs = (pair.partition("=") for pair in text.split("&") if pair)
        query = {unquote(name): unquote_plus(value) for name, _, value in pairs}
        prefer = ", ".join(headers.get_all("Prefer", []))
        return cls(method, target, unquote(path), query, headers, prefer=prefer)

    @property
    def entity_set(self) -> str | None:
        """The first segment of the path below the API root."""
        match = API_PATH.fullmatch(self.path)
        return re.split(r"[/(]", match[1])[0] or None if match else None


def classify(request: LoggedRequest, thin: set[str] | None) -> str:
    """The kind of a request; ``thin`` is the set's key, ``modifiedon`` and ``versionnumber``."""
    if request.method == "POST":
        return "token" if "/oauth2/" in request.path else "other"
    below = API_PATH.fullmatch(request.path)
    if below is None:
        return "other"
    if "authorization" not in request.headers:
        return "challenge"
    path, query = below[1], request.query
    if path in {"", "$metadata"} or path.startswith("EntityDefinitions"):
        return "metadata"
    if path.endswith("/$count") or path.startswith("RetrieveTotalRecordCount"):
        return "count"
    if thin is None:
        return "other"
    selected = {part.strip() for part in query.get("$select", "*").split(",")}
    cookie = unquote(unquote(query.get("$skiptoken", "")))
    if "$deltatoken" in query or ' since="' in cookie:
        return "delta"
    if selected <= thin:
        tracked = "odata.track-changes" in request.prefer or 'istracking="True"' in cookie
        return "delta" if tracked else "thin"
    return "data"
