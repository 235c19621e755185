"""Write records with what ``odata.include-annotations`` asks for, each before its member."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Sequence
from decimal import Decimal

import sqlalchemy as sa

from ..data.columns import TO_JSON, Column, Member, SqlValue, Storage, guid_rank
from ..data.records import StoredTable
from ..data.store import Store
from .query import Preferences

_FORMATTED = "OData.Community.Display.V1.FormattedValue"
_TARGET = "Microsoft.Dynamics.CRM.lookuplogicalname"
_NAVIGATION = "Microsoft.Dynamics.CRM.associatednavigationproperty"
_NO_NAVIGATION = {"createdby", "modifiedby"}


def navigation_name(column: Column, target: str) -> str:
    """The navigation property of a lookup: of its own name, unless it has several targets."""
    if column.type == "Customer" or (column.type == "Lookup" and len(column.targets) > 1):
        return f"{column.name}_{target}"
    return column.name


class Annotator:
    """Writes one table's records; looks up the names of what they point to."""

    def __init__(self, store: Store, table: StoredTable, preferences: Preferences) -> None:
        self._store = store
        self._members = table.spec.members
        self._wanted = {
            name for name in (_FORMATTED, _TARGET, _NAVIGATION) if preferences.wants(name)
        }
        self._targets: dict[str, tuple[str, str | None] | None] = {}

    def to_json(self, names: Sequence[str], values: Sequence[SqlValue], version: int) -> bytes:
        """These members of a record, each after its annotations."""
        parts = [f'{{"@odata.etag":"W/\\"{version}\\""']
        for name, value in zip(names, values, strict=True):
            member = self._members[name]
            if value is None:
                parts.append(json.dumps(name) + ":null")
                continue
            for annotation, text in self._annotations(member, value):
                if annotation in self._wanted:
                    key = json.dumps(f"{name}@{annotation}")
                    parts.append(f"{key}:{json.dumps(text, ensure_ascii=False)}")
            parts.append(f"{json.dumps(name)}:{TO_JSON[member.storage](value)}")
        return (",".join(parts) + "}").encode()

    def _annotations(self, member: Member, value: SqlValue) -> Iterator[tuple[str, str]]:
        if member.name != f"_{member.column.name}_value":
            text = _formatted(member, value)
            if text is not None:
                yield _FORMATTED, text
            return
        found = self._target(member.column, str(value))
        if found is None:
            return
        target, name = found
        if name is not None:
            yield _FORMATTED, name
        if member.column.name not in _NO_NAVIGATION:
            yield _NAVIGATION, navigation_name(member.column, target)
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


def _formatted(member: Member, value: SqlValue) -> str | None:
    column = member.column
    if column.options:
        labels = [column.options.get(int(part)) for part in str(value).split(",")]
        return "; ".join(label for label in labels if label) or None
    if column.type == "Money":
        return f"${Decimal(str(value)):,.2f}"
    if member.storage is Storage.MOMENT:
        return _us_style(str(value))
    if member.storage is Storage.WHOLE:
        return f"{value:,}"
    if member.storage is Storage.NUMBER:
        return f"{Decimal(str(value)):,}"
    return None


def _us_style(text: str) -> str:
    moment = dt.datetime.fromisoformat(text)
    day = f"{moment.month}/{moment.day}/{moment.year}"
    if len(text) == len("2024-05-01"):
        return day
    hour = moment.hour % 12 or 12
    return f"{day} {hour}:{moment.minute:02} {'AM' if moment.hour < 12 else 'PM'}"
