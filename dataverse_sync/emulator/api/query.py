"""Take a request's query and its ``Prefer`` header apart, and refuse what the service refuses.

Values are kept as they came too: a next link repeats them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import unquote, unquote_plus

from .answers import bad_request

API_PATH = re.compile(r"/api/data/v9\.[0-2]/(.*)", re.DOTALL)
MAX_URL = 32 * 1024

_KNOWN = ("$select", "$filter", "$orderby", "$top")
_TOKENS = ("$skiptoken", "$deltatoken")


@dataclass(frozen=True, slots=True)
class Query:
    """The options of one request, decoded, and as they were sent."""

    options: dict[str, str] = field(default_factory=dict)
    raw: dict[str, str] = field(default_factory=dict)

    def get(self, name: str) -> str | None:
        return self.options.get(name)

    @property
    def select(self) -> tuple[str, ...] | None:
        text = self.options.get("$select")
        return None if text is None else tuple(part.strip() for part in text.split(","))

    @property
    def top(self) -> int | None:
        text = self.options.get("$top")
        if text is None:
            return None
        if not text.isdigit():
            raise bad_request(
                f"Invalid value '{text}' for $top query option found. The $top query option"
                " requires a non-negative integer value.",
                "0x0",
            )
        return int(text)

    @property
    def same_read(self) -> tuple[tuple[str, str | None], ...]:
        """The options that are the same on all pages of one read."""
        return tuple((name, self.options.get(name)) for name in _KNOWN if name != "$top")

    def link_options(self) -> str:
        """The options that a next link repeats, as they were sent."""
        return "".join(
            f"{name}={self.raw[name]}&" for name in _KNOWN if name in self.raw and name != "$top"
        )


def split_target(target: str) -> tuple[str, Query]:
    """A request target's decoded path, and its query."""
    path, _, text = target.partition("?")
    query = Query()
    for pair in filter(None, text.split("&")):
        name, _, value = pair.partition("=")
        name = unquote(name)
        if name in query.options:
            raise bad_request(f"Query option '{name}' was specified more than once.")
        query.options[name] = unquote_plus(value)
        query.raw[name] = value
    return unquote(path), query


def check_options(query: Query, allowed: Iterable[str] = (*_KNOWN, *_TOKENS)) -> None:
    for name in query.options:
        if name == "$skip":
            raise bad_request("Skip Clause is not supported in CRM")
        if name not in allowed:
            raise bad_request(f"The query parameter {name} is not supported")


@dataclass(frozen=True, slots=True)
class Preferences:
    """What ``Prefer`` asks for, as far as the service honours it."""

    max_page_size: int | None = None
    annotations: tuple[str, ...] = ()
    track_changes: bool = False

    @property
    def applied(self) -> str:
        parts = []
        if self.max_page_size is not None:
            parts.append(f"odata.maxpagesize={self.max_page_size}")
        if self.annotations:
            parts.append(f'odata.include-annotations="{",".join(self.annotations)}"')
        if self.track_changes:
            parts.append("odata.track-changes")
        return ",".join(parts)

    def wants(self, annotation: str) -> bool:
        return any(
            wanted in {"*", annotation}
            or (wanted.endswith(".*") and annotation.startswith(wanted[:-1]))
            for wanted in self.annotations
        )


def parse_prefer(header: str, largest: int) -> Preferences:
    size, annotations, track = None, (), False
    for part in re.findall(r'(?:[^,"]|"[^"]*")+', header):
        name, _, value = part.strip().partition("=")
        value = value.strip('" ')
        if name == "odata.maxpagesize" and value.isdigit() and int(value) > 0:
            size = min(int(value), largest)
        elif name == "odata.include-annotations":
            annotations = tuple(value.split(","))
        elif name == "odata.track-changes":
            track = True
    return Preferences(size, annotations, track)


def split_call(text: str) -> tuple[str, dict[str, str]]:
    """``Attributes($select=a,b;$filter=c)`` as its name and its options."""
    match = re.fullmatch(r"\s*([^()]+?)\s*(?:\((.*)\))?\s*", text, re.DOTALL)
    if match is None:
        raise bad_request(f"Syntax error in '{text}'.")
    options = {}
    for part in split_outside(match[2] or "", ";"):
        name, _, value = part.partition("=")
        options[name.strip()] = value
    return match[1], options


def split_outside(text: str, separator: str) -> list[str]:
    """Split at a separator outside parentheses."""
    parts, depth, start = [], 0, 0
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if letter == separator and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    parts.append(text[start:])
    return [part for part in parts if part.strip()]
