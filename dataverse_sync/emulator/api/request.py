"""A request for the records of one table, and the state that all requests share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..control import Control
from ..data.records import StoredTable
from ..data.store import Store
from .answers import Answer, Page, bad_request, missing_privilege
from .filters import Condition, compile_filter
from .paging import Cursor, Tokens
from .query import Preferences, Query


@dataclass(frozen=True, slots=True)
class Backend:
    """The state that all answers share: data, levers, the links and counts that were sent."""

    store: Store
    control: Control
    cursors: Tokens = field(default_factory=Tokens)
    totals: dict[str, tuple[float, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SetRequest:
    """A request for records of one table; refuses access that the table does not give."""

    backend: Backend
    table: StoredTable
    query: Query
    preferences: Preferences
    base: str  # the API root, as links begin with it

    @property
    def link(self) -> str:
        """The beginning of the links to this read's other pages."""
        return f"{self.base}{self.table.spec.entity_set}?{self.query.link_options()}"

    @property
    def page_size(self) -> int:
        return self.preferences.max_page_size or self.backend.control.max_page_size

    def find_cursor(self) -> Cursor | None:
        token = self.query.raw.get("$skiptoken")
        return None if token is None else self.backend.cursors.find(self._identity, token)

    def next_link(self, token: str, cursor: Cursor) -> str:
        self.backend.cursors.remember(self._identity, token, cursor)
        return f"{self.link}$skiptoken={token}"

    @property
    def _identity(self) -> tuple[Any, ...]:
        return (self.table.spec.entity_set, self.query.same_read)

    def conditions(self) -> list[Condition]:
        text = self.query.get("$filter")
        return [] if text is None else [compile_filter(text, self.table)]

    def refuse_access(self) -> None:
        name = self.table.spec.logical_name
        if self.table.spec.privilege_missing:
            raise missing_privilege(name)
        if not self.table.spec.readable:
            message = f"The 'RetrieveMultiple' method does not support entities of type '{name}'."
            raise bad_request(message, "0x80040800")

    def answer(self, page: Page) -> Answer:
        applied = self.preferences.applied
        return Answer(page=page, headers=[("Preference-Applied", applied)] if applied else [])
