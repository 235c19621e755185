"""Write records with what ``odata.include-annotations`` asks for, each before its member.

Choices and lookups are annotated; the formatted values of money, numbers and moments, which
no copy of an environment needs, are left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import sqlalchemy as sa

from ..data.columns import LOOKUPS, Column, Member, SqlValue, guid_rank
from ..data.records import StoredTable
from ..data.store import Store
from .query import Preferences

_FORMATTED = "OData.Community.Display.V1.FormattedValue"
_TARGET = "Microsoft.Dynamics.CRM.lookuplogicalname"


class Annotator:
    """Writes one table's records; looks up the names of what they point to."""

    def __init__(self, store: Store, table: StoredTable, preferences: Preferences) -> None:
        self._store = store
        self._table = table
        self._wanted = {name for name in (_FORMATTED, _TARGET) if preferences.wants(name)}
        self._targets: dict[str, tuple[str, str | None] | None] = {}

    def to_whole_json(
        self, names: Sequence[str], values: Sequence[SqlValue], version: int
    ) -> bytes:
        """A whole record: its filled members first, then its nulls."""
        members = sorted(zip(names, values, strict=True), key=lambda member: member[1] is None)
        return self.to_json([name for name, _ in members], [value for _, value in members], version)

    def to_json(self, names: Sequence[str], values: Sequence[SqlValue], version: int) -> bytes:
        """These members of a record, each after its annotations."""
        parts = []
        for name, value in zip(names, values, strict=True):
            for annotation, text in self._annotations(self._table.spec.members[name], value):
                if annotation in self._wanted:
                    key = json.dumps(f"{name}@{annotation}")
                    parts.append(f"{key}:{json.dumps(text, ensure_ascii=False)}")
            parts.append(self._table.write_member(name, value))
        return self._table.join(parts, version)

    def _annotations(self, member: Member, value: SqlValue) -> Iterator[tuple[str, str]]:
        column = member.column
        if value is not None and column.options:
            labels = [column.options.get(int(part)) for part in str(value).split(",")]
            if any(labels):
                yield _FORMATTED, "; ".join(filter(None, labels))
        elif value is not None and column.type in LOOKUPS:
            target, name = self._target(column, str(value)) or (None, None)
            if name is not None:
                yield _FORMATTED, name
            if target is not None:
                yield _TARGET, target

    def _target(self, column: Column, id_: str) -> tuple[str, str | None] | None:
        """The table that holds the record pointed to, and the record's name."""
        if id_ not in self._targets:
            self._targets[id_] = next(self._found(column, id_), None)
        return self._targets[id_]

    def _found(self, column: Column, id_: str) -> Iterator[tuple[str, str | None]]:
        for target in column.targets:
            table = self._store.find_table(target)
            if table is None or table.spec.name_column is None:
                continue
            query = sa.select(table.sql.c[table.spec.name_column])
            for row in self._store.read(query.where(table.rank == guid_rank(id_))):
                yield target, row[0]
