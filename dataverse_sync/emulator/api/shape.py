"""Shape records for one answer: all members or the selected ones, annotated if asked for.

The place to hide a column, or to show it otherwise than it is stored.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from ..data.columns import SqlValue
from ..data.records import StoredTable
from .annotations import Annotator
from .answers import unknown_property
from .filters import Condition
from .paging import SortKey
from .query import Query
from .request import SetRequest


@dataclass(frozen=True, slots=True)
class Row:
    """A record as it is sent, and the values it was sorted by, as a cookie shows them."""

    text: bytes
    version: int
    shown: tuple[SqlValue, ...]


class Shape:
    """Reads records as one request wants them."""

    def __init__(self, request: SetRequest) -> None:
        self._request = request
        self._table = request.table
        self._names = _selected(request.query, request.table)
        preferences = request.preferences
        self._annotator = (
            Annotator(request.backend.store, request.table, preferences)
            if preferences.annotations
            else None
        )

    @property
    def context(self) -> str:
        select = self._request.query.select
        listed = f"({','.join(select)})" if select else ""
        return f"{self._request.base}$metadata#{self._table.spec.entity_set}{listed}"

    def rows(self, where: Sequence[Condition], keys: Sequence[SortKey], limit: int) -> list[Row]:
        table, count, control = self._table, len(keys), self._request.backend.control
        name = table.spec.entity_set
        if name in control.depths:
            where = [*where, table.key.in_(control.depths[name][1])]
        hidden = {
            member
            for member, about in table.spec.members.items()
            if (name, about.column.name) in control.hidden
        }
        shown = [table.sql.c[key.name] for key in keys]
        whole = self._names is None and self._annotator is None and not hidden
        names = tuple(table.spec.members) if self._names is None else self._names
        wanted = [table.json] if whole else [table.sql.c[name] for name in names]
        query = sa.select(table.version, *shown, *wanted).where(*where)
        query = query.order_by(*(key.clause for key in keys)).limit(limit)
        found = self._request.backend.store.read(query)
        if whole:
            return [Row(row[-1], row[0], tuple(row[1:-1])) for row in found]
        write = table.to_partial_json if self._names else self._write_whole
        if self._annotator:
            write = self._annotator.to_json if self._names else self._annotator.to_whole_json
        return [
            Row(
                write(names, _hide(names, row[1 + count :], hidden), row[0]),
                row[0],
                tuple(row[1 : 1 + count]),
            )
            for row in found
        ]

    def _write_whole(self, _: Sequence[str], values: Sequence[SqlValue], version: int) -> bytes:
        return self._table.to_json(values, version)


def _hide(
    names: Sequence[str], values: Sequence[SqlValue], hidden: Collection[str]
) -> Sequence[SqlValue]:
    if not hidden:
        return values
    return [None if name in hidden else value for name, value in zip(names, values, strict=True)]


def _selected(query: Query, table: StoredTable) -> tuple[str, ...] | None:
    """The members to send: the chosen ones, a money column's currency, the key."""
    chosen = query.select
    if chosen is None:
        return None
    spec = table.spec
    names: dict[str, None] = {}
    for name in chosen:
        member = spec.members.get(name)
        if member is None:
            raise unknown_property(name, spec.logical_name)
        names[name] = None
        if member.column.type == "Money" and "_transactioncurrencyid_value" in spec.members:
            names["_transactioncurrencyid_value"] = None
    names[spec.key] = None
    return tuple(names)
