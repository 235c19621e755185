"""Take a request's query and its ``Prefer`` header apart, and refuse what the service refuses.

Values are kept as they came too: a next link repeats them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import unquote, unquote_plus

from .answers import ServiceError, bad_request

_KNOWN = ("$select", "$filter", "$orderby", "$top", "$count", "$expand")
_TOKENS = ("$skiptoken", "$deltatoken")
_ALIAS = re.compile(r"'(?:[^']|'')*'|@(\w+)")
MAX_URL = 32 * 1024


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
    def count(self) -> bool:
        return self.options.get("$count", "false").lower() == "true"

    @property
    def same_read(self) -> tuple[tuple[str, str | None], ...]:
        """What must not differ between the pages of one read."""
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
    allowed = set(allowed)
    for name in query.options:
        if name == "$skip":
            raise bad_request("Skip Clause is not supported in CRM")
        if name not in allowed and not name.startswith("@"):
            raise bad_request(f"The query parameter {name} is not supported")


def resolve_aliases(text: str, query: Query) -> str:
    """``accountid eq @p1`` with ``@p1=...`` put in."""

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        return match.group(0) if name is None else query.options.get(f"@{name}", "null")

    return _ALIAS.sub(value, text)


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


def refuse_with_tracking(query: Query) -> None:
    """Change tracking knows ``$select`` only."""
    for name in ("$filter", "$orderby", "$top", "$expand"):
        if name in query.options:
            raise ServiceError(
                400,
                "0x80060888",
                f'The "{name}" query parameter isn\'t supported when Change Tracking is enabled.',
            )
