"""What is asked of a table, and what of each record is sent back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ..data.columns import SqlValue
from ..data.store import StoredTable
from .annotations import Annotator
from .answers import Answer, Page, ServiceError, missing_privilege, unknown_property
from .environment import Environment, privilege_id
from .expand import parse_expand
from .filters import Condition, compile_filter
from .options import Preferences, Query, resolve_aliases
from .paging import Cursor, SortKey


@dataclass(frozen=True, slots=True)
class Read:
    """One request for records of one table."""

    env: Environment
    table: StoredTable
    query: Query
    preferences: Preferences
    base: str  # the API root, as links begin with it

    @property
    def link(self) -> str:
        """How the links to this read's other pages begin."""
        return f"{self.base}{self.table.spec.entity_set}?{self.query.link_options()}"

    @property
    def page_size(self) -> int:
        return self.preferences.max_page_size or self.env.max_page_size

    def find_cursor(self) -> Cursor | None:
        token = self.query.raw.get("$skiptoken")
        return None if token is None else self.env.cursors.find(self._identity, token)

    def next_link(self, token: str, cursor: Cursor) -> str:
        self.env.cursors.remember(self._identity, token, cursor)
        return f"{self.link}$skiptoken={token}"

    @property
    def _identity(self) -> tuple[Any, ...]:
        return (self.table.spec.entity_set, self.query.same_read)

    def conditions(self) -> list[Condition]:
        text = self.query.get("$filter")
        if text is None:
            return []
        return [compile_filter(resolve_aliases(text, self.query), self.table)]

    def refuse_access(self) -> None:
        name = self.table.spec.logical_name
        if self.table.spec.privilege_missing:
            raise missing_privilege(name, self.env.user_id, privilege_id(name))
        if not self.table.spec.readable:
            raise ServiceError(
                400,
                "0x80040800",
                f"The 'RetrieveMultiple' method does not support entities of type '{name}'.",
            )

    def answer(self, page: Page) -> Answer:
        applied = self.preferences.applied
        headers = [("Preference-Applied", applied)] if applied else []
        return Answer(page=page, headers=headers, records=len(page.records))


@dataclass(frozen=True, slots=True)
class Row:
    """A record as it is sent, and what it was sorted by, as a cookie shows it."""

    text: bytes
    shown: tuple[SqlValue, ...]


class Shape:
    """All of each record, or some members; with annotations; with lookups expanded."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._table = read.table
        self._names = _selected(read.query, read.table)
        self._annotator = (
            Annotator(read.env, read.table, read.preferences)
            if read.preferences.annotations
            else None
        )
        self._expansions = parse_expand(read.query.get("$expand"), read.table, read.env)

    @property
    def context(self) -> str:
        parts = [*(self._read.query.select or ()), *(part.context for part in self._expansions)]
        listed = f"({','.join(parts)})" if parts else ""
        return f"{self._read.base}$metadata#{self._table.spec.entity_set}{listed}"

    def rows(self, where: Sequence[Condition], keys: Sequence[SortKey], limit: int) -> list[Row]:
        table = self._table
        shown = [table.sql.c[key.name] for key in keys]
        if self._names is None and self._annotator is None and not self._expansions:
            columns: list[sa.ColumnElement[Any]] = [table.json, *shown]
            names: Sequence[str] = ()
        else:
            names = tuple(table.spec.members) if self._names is None else self._names
            expanded = [table.sql.c[part.member] for part in self._expansions]
            columns = [*shown, *expanded, table.version, *(table.sql.c[name] for name in names)]
        query = sa.select(*columns).where(*where).order_by(*(key.clause for key in keys))
        found = self._read.env.store.read(query.limit(limit))
        if not names:
            return [Row(row[0], tuple(row[1:])) for row in found]
        return self._written(found, names, len(keys))

    def _written(self, rows: Sequence[Sequence[Any]], names: Sequence[str], keys: int) -> list[Row]:
        first = keys + len(self._expansions)
        related = [
            part.fetch([row[keys + i] for row in rows]) for i, part in enumerate(self._expansions)
        ]
        write = self._annotator.written if self._annotator else self._table.codec.projected
        result = []
        for row in rows:
            extra = "".join(
                f',"{part.navigation}":{found.get(row[keys + i], "null")}'
                for i, (part, found) in enumerate(zip(self._expansions, related, strict=True))
            )
            text = write(names, row[first + 1 :], row[first], extra)
            result.append(Row(text, tuple(row[:keys])))
        return result


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
