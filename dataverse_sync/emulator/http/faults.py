"""Faults on order: what a network, a gateway or a service in trouble does to an answer.

A fault is aimed at requests by a pattern over method and target as they came, percent signs
included (``GET /api/data/v9.2/accounts?$select=name``); it strikes ``times`` times
after letting ``skip`` matching requests pass.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

from ..api.answers import Answer, Page, ServiceError

HTML = (
    b"<!DOCTYPE html>\r\n<html><head><title>Service Unavailable</title></head>\r\n"
    b"<body><h2>Our services aren't available right now</h2></body></html>\r\n"
)

INSTEAD = ("status", "html", "not_json", "redirect", "body")  # the service is never asked
IN_PAGE = (
    "other_origin_link",
    "repeat_link",
    "drop_last_record",
    "repeat_page",
    "empty_page_with_link",
)
IN_TRANSFER = (
    "reset",
    "reset_in_body",
    "truncate",
    "truncate_chunked",
    "truncate_close",
    "stall",
    "stall_in_body",
    "slow_body",
    "bad_gzip",
)

_CODES = {
    400: ("0x80040265", "An error occurred in the ISV code."),
    403: ("0x80072560", "The user is not a member of the organization."),
    404: ("0x80060888", "Resource not found."),
    429: (
        "0x80072322",
        "Number of requests exceeded the limit of 6000 over time window of 300 seconds.",
    ),
    500: ("0x80040216", "An unexpected error occurred."),
}


class Fault:
    """One thing that goes wrong; ``details`` are those its kind reads.

    ``status``: ``status``, ``retry_after``, ``code``, ``message``, ``body``. ``redirect`` and
    ``other_origin_link``: ``location``. ``body``: ``body``, ``status``, ``headers``. ``stall``,
    ``stall_in_body`` and ``slow_body``: ``seconds`` in all.
    """

    def __init__(
        self, kind: str, match: str = ".*", times: int = 1, skip: int = 0, **details: Any
    ) -> None:
        if kind not in {*INSTEAD, *IN_PAGE, *IN_TRANSFER}:
            raise ValueError(f"no fault is called {kind!r}")
        self.kind = kind
        self.match = re.compile(match)
        self.times = times
        self.skip = skip
        self.details = details

    def __repr__(self) -> str:
        return f"Fault({self.kind!r}, match={self.match.pattern!r}, times={self.times})"


class Faults:
    """The faults on order, first come first served."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[Fault] = []

    def add(self, fault: Fault) -> None:
        with self._lock:
            self._waiting.append(fault)

    def clear(self) -> None:
        with self._lock:
            self._waiting.clear()

    def take(self, method: str, target: str) -> Fault | None:
        with self._lock:
            for fault in self._waiting:
                if fault.times > 0 and fault.match.search(f"{method} {target}"):
                    if fault.skip > 0:
                        fault.skip -= 1
                        continue
                    fault.times -= 1
                    return fault
        return None


def answer_instead(fault: Fault) -> Answer:
    """The answer of a fault that keeps the service out of it."""
    details = fault.details
    if fault.kind == "status":
        return _status(details)
    if fault.kind == "redirect":
        return Answer(
            details.get("status", 302), b"", None, [("Location", str(details["location"]))]
        )
    if fault.kind == "html":
        return Answer(200, HTML, "text/html; charset=utf-8")
    if fault.kind == "not_json":
        return Answer(200, b'{"@odata.context":"#accounts","value":[{"name":"Litware\x00"}}')
    headers = dict(details.get("headers", {}))
    content_type = headers.pop("Content-Type", Answer().content_type)
    return Answer(
        details.get("status", 200),
        _bytes(details.get("body", b"")),
        content_type,
        [*headers.items()],
    )


def _status(details: dict[str, Any]) -> Answer:
    status = int(details["status"])
    if details.get("body") is not None:
        answer = Answer(status, _bytes(details["body"]), "text/html; charset=utf-8")
    elif status in _CODES or "code" in details or "message" in details:
        code, message = _CODES.get(status, ("0x80044150", "Generic SQL error."))
        answer = ServiceError(
            status, details.get("code", code), details.get("message", message)
        ).answer()
    else:
        answer = Answer(status, HTML, "text/html; charset=utf-8")
    if details.get("retry_after") is not None:
        answer.headers.append(("Retry-After", str(details["retry_after"])))
    return answer


def _bytes(body: bytes | str) -> bytes:
    return body.encode() if isinstance(body, str) else body


def change_page(
    fault: Fault, page: Page, asked: str, before: list[bytes], same_place: Callable[[], str]
) -> None:
    """Make a page lie.

    ``asked`` is the link it answers, ``before`` the records of the page sent before it, and
    ``same_place`` makes a new link to where this page begins.
    """
    if fault.kind == "other_origin_link":
        page.next_link = str(fault.details["location"])
    elif fault.kind == "repeat_link":
        page.next_link = asked
    elif fault.kind == "drop_last_record":
        page.records = page.records[:-1]
    elif fault.kind == "repeat_page":
        page.records = before
    elif fault.kind == "empty_page_with_link":
        page.records, page.delta_link = [], None
        page.next_link = same_place()
