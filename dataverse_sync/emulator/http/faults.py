"""Faults that tests order: failures of a network, a gateway or a service in trouble.

A fault is aimed at requests by a pattern over method and target as they came, percent signs
included (``GET /api/data/v9.2/accounts?$select=name``); it strikes ``times`` times
after letting ``skip`` matching requests pass.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from ..api.answers import JSON_TYPE, Answer, Page, ServiceError
from .limits import TOO_MANY

HTML = (
    b"<!DOCTYPE html>\r\n<html><head><title>Service Unavailable</title></head>\r\n"
    b"<body><h2>Our services aren't available right now</h2></body></html>\r\n"
)

INSTEAD = ("status", "body")  # the service is never asked
IN_PAGE = ("other_origin_link", "drop_last_record", "repeat_page", "empty_page_with_link")
IN_TRANSFER = ("reset", "truncate", "stall")

_CODES = {
    400: ("0x80040265", "An error occurred in the ISV code."),
    403: ("0x80072560", "The user is not a member of the organization."),
    404: ("0x80060888", "Resource not found."),
    429: ("0x80072322", TOO_MANY.format(6000, 300)),
    500: ("0x80040216", "An unexpected error occurred."),
}


class Fault:
    """One fault; ``details`` are the keywords that its kind reads.

    ``status``: ``status``, ``retry_after``, ``code``, ``message``, ``body``.
    ``other_origin_link``: ``location``. ``body``: ``body``, ``status``, ``headers``.
    ``stall``: ``seconds``.
    """

    def __init__(
        self, kind: str, match: str = ".*", times: int = 1, skip: int = 0, **details: Any
    ) -> None:
        if kind not in {*INSTEAD, *IN_PAGE, *IN_TRANSFER}:
            raise ValueError(f"not a fault: {kind!r}")
        self.kind = kind
        self.match = re.compile(match)
        self.times = times
        self.skip = skip
        self.details = details

    def __repr__(self) -> str:
        return f"Fault({self.kind!r}, match={self.match.pattern!r}, times={self.times})"


def take_fault(faults: Iterable[Fault], method: str, target: str) -> Fault | None:
    """Find the first fault that strikes this request, and count the strike."""
    for fault in faults:
        if fault.times > 0 and fault.match.search(f"{method} {target}"):
            if fault.skip == 0:
                fault.times -= 1
                return fault
            fault.skip -= 1
    return None


def answer_instead(fault: Fault) -> Answer:
    """Answer for a fault of ``INSTEAD``: the service is not asked."""
    details = fault.details
    if fault.kind == "status":
        return _status(details)
    headers = dict(details.get("headers", {}))
    content_type = headers.pop("Content-Type", JSON_TYPE)
    body = _bytes(details.get("body", b""))
    return Answer(details.get("status", 200), body, content_type, [*headers.items()])


def _status(details: dict[str, Any]) -> Answer:
    status = int(details["status"])
    if details.get("body") is not None:
        answer = Answer(status, _bytes(details["body"]), "text/html; charset=utf-8")
    elif status in _CODES or "code" in details or "message" in details:
        code, message = _CODES.get(status, ("0x80044150", "Generic SQL error."))
        code, message = details.get("code", code), details.get("message", message)
        answer = ServiceError(status, code, message).answer()
    else:
        answer = Answer(status, HTML, "text/html; charset=utf-8")
    if details.get("retry_after") is not None:
        answer.headers.append(("Retry-After", str(details["retry_after"])))
    return answer


def _bytes(body: bytes | str) -> bytes:
    return body.encode() if isinstance(body, str) else body


def change_page(
    fault: Fault, page: Page, before: list[bytes], same_page: Callable[[], str]
) -> None:
    """Change a page of records as the fault says.

    ``before`` are the records of the page sent before it, and ``same_page`` makes a new link
    to where this page begins.
    """
    if fault.kind == "other_origin_link":
        page.next_link = str(fault.details["location"])
    elif fault.kind == "drop_last_record":
        page.records = page.records[:-1]
    elif fault.kind == "repeat_page":
        page.records = before
    elif fault.kind == "empty_page_with_link":
        page.records, page.delta_link = [], None
        page.next_link = same_page()
