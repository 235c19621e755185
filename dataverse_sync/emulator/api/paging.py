"""Keyset paging: where a page ends, the next one begins, whatever was written in between.

The service puts the page's first and last sort values into a cookie, the cookie into a
``$skiptoken``, and takes the token back only as it sent it. So the emulator remembers the
tokens it sent, and refuses a token that comes back changed in any byte.

https://learn.microsoft.com/power-apps/developer/data-platform/webapi/query/page-results
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import sqlalchemy as sa

from ..data.columns import Storage, guid_rank
from ..data.records import StoredTable
from .answers import bad_request, unknown_property
from .filters import comparable

_REMEMBERED = 200_000
_TO_SORTED: dict[Storage, Callable[[Any], Any]] = {
    Storage.GUID: guid_rank,
    Storage.NUMBER: float,
}


@dataclass(frozen=True, slots=True)
class SortKey:
    """One term of ``$orderby``; the last term is always the primary key."""

    name: str
    expression: sa.ColumnElement[Any]
    descending: bool = False

    @property
    def clause(self) -> sa.ColumnElement[Any]:
        return self.expression.desc() if self.descending else self.expression.asc()


@dataclass(frozen=True, slots=True)
class Cursor:
    """The place where the next page of a read begins."""

    page: int
    after: tuple[Any, ...]  # the last record's sort values
    safe_version: int = 0  # of a tracked read: the version its delta link will name
    since: int | None = None  # of a delta read: the version it began at
    deletions: bool = False  # of a delta read: the changed records are through


@dataclass(frozen=True, slots=True)
class DeltaToken:
    """A delta token that was sent: the version it names, and what it depends on."""

    version: int
    schema_version: int
    sent_at: float


def parse_orderby(text: str | None, table: StoredTable) -> list[SortKey]:
    keys: list[SortKey] = []
    spec = table.spec
    for term in filter(None, (text or "").split(",")):
        name, *direction = term.split()
        if direction not in ([], ["asc"], ["desc"]):
            raise bad_request(f"Syntax error in '{text}'.")
        if name not in spec.members:
            raise unknown_property(name, spec.logical_name)
        if name in spec.not_orderable or (name == spec.key and not spec.orderable):
            raise bad_request(f"Ordering by '{name}' is not supported on '{spec.logical_name}'.")
        expression = comparable(table, spec.members[name])
        keys.append(SortKey(name, expression, direction == ["desc"]))
    if all(key.name != spec.key for key in keys):
        keys.append(SortKey(spec.key, table.rank))
    return keys


def after_clause(keys: Sequence[SortKey], values: Sequence[Any]) -> sa.ColumnElement[bool]:
    """Records that sort after these values; null sorts lowest."""
    alternatives = []
    for i, (key, value) in enumerate(zip(keys, values, strict=True)):
        same = [
            earlier.expression.is_not_distinct_from(before)
            for earlier, before in zip(keys[:i], values[:i], strict=True)
        ]
        alternatives.append(sa.and_(*same, _beyond(key, value)))
    # Said again for the first term alone, so that SQLite can use its index.
    first, value = keys[0], values[0]
    if value is not None and not first.descending:
        return sa.and_(first.expression >= value, sa.or_(*alternatives))
    return sa.or_(*alternatives)


def _beyond(key: SortKey, value: Any) -> sa.ColumnElement[bool]:
    if not key.descending:
        return key.expression.is_not(None) if value is None else key.expression > value
    if value is None:
        return sa.false()
    return sa.or_(key.expression < value, key.expression.is_(None))


def sort_values(
    keys: Sequence[SortKey], shown: Sequence[Any], table: StoredTable
) -> tuple[Any, ...]:
    """What SQLite sorts by, from what the record shows."""
    storages = [table.spec.members[key.name].storage for key in keys]
    return tuple(
        value if value is None or storage not in _TO_SORTED else _TO_SORTED[storage](value)
        for storage, value in zip(storages, shown, strict=True)
    )


def skip_token(
    page: int, names: Sequence[str], first: Sequence[Any], last: Sequence[Any], tracking: str = ""
) -> str:
    """The token as the service writes it: XML, encoded twice, in XML, encoded once."""
    inner = "".join(
        f"<{name}{_bound('last', b)}{_bound('first', a)} />"
        for name, a, b in zip(names, first, last, strict=True)
    )
    cookie = _encode(_encode(f'<cookie page="{page - 1}"{tracking}>{inner}</cookie>'))
    outer = f'<cookie pagenumber="{page}" pagingcookie="{cookie}" istracking="{bool(tracking)}" />'
    return quote(outer, safe="=/%-._~!*'()")


def _bound(name: str, value: Any) -> str:
    if value is None:
        return f' {name}null="1"'
    text = str(value)
    is_guid = re.fullmatch(r"[0-9a-f-]{36}", text)
    return f" {name}=" + quoteattr(f"{{{text.upper()}}}" if is_guid else text, {'"': "&quot;"})


def _encode(text: str) -> str:
    """As .NET does it: everything but letters, digits, ``-``, ``_`` and ``.``, in lower case."""
    return re.sub(r"%[0-9A-F]{2}", lambda m: m[0].lower(), quote(text, safe="-_."))


class Tokens:
    """The tokens that were sent, and what each stands for."""

    def __init__(self) -> None:
        self._sent: OrderedDict[tuple[Any, ...], Cursor] = OrderedDict()

    def remember(self, read: tuple[Any, ...], token: str, cursor: Cursor) -> None:
        self._sent[(*read, token)] = cursor
        self._sent.move_to_end((*read, token))
        if len(self._sent) > _REMEMBERED:
            self._sent.popitem(last=False)

    def find(self, read: tuple[Any, ...], token: str) -> Cursor:
        try:
            return self._sent[(*read, token)]
        except KeyError:
            raise bad_request(
                "The paging cookie does not match the ordering of the query.", "0x80041129"
            ) from None
