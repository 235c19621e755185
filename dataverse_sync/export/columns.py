"""Decide the columns of an exported file: their names, their types, and where values come from.

Pure functions over the locked schema and the data dictionary. Values come from ``json_response``,
which is exact, and not from the table's columns: a decimal is a float there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Literal

from dataverse_sync.model import Column, ColumnType
from dataverse_sync.store.dictionary import ColumnEntry
from dataverse_sync.store.tables import EntityTable

Kind = Literal["text", "integer", "whole", "real", "boolean", "decimal", "date", "moment", "local"]
MOST_DIGITS = 38  # of a decimal that every reader of Parquet takes
ANNOTATION = "@Microsoft.Dynamics.CRM.lookuplogicalname"
OWNERS = {"_owninguser_value": "systemuser", "_owningteam_value": "team"}
OWNER = "_ownerid_value"

_KINDS: Mapping[str, Kind] = {
    "BigInt": "integer",
    "Integer": "integer",
    "Picklist": "integer",
    "State": "integer",
    "Status": "integer",
    "Boolean": "boolean",
    "Double": "real",
    "Decimal": "decimal",
    "Money": "decimal",
}
_LOCKED_KINDS: Mapping[ColumnType, Kind] = {
    "TEXT": "text",
    "INTEGER": "whole",  # a boolean may be in it, which is 0 or 1 then, as in the table
    "REAL": "real",
}
_PLACES = {"Decimal": 10, "Money": 4}  # the most that Dataverse allows
_LOOKUP = re.compile(r"_(.+)_value")


@dataclass(frozen=True, slots=True)
class Member:
    """The value is a member of the record."""

    name: str


@dataclass(frozen=True, slots=True)
class Beside:
    """The value is read beside the record, at this position; from the end if that is negative."""

    position: int


@dataclass(frozen=True, slots=True)
class Target:
    """The value is the logical name of the table that a lookup points to."""

    member: str
    only: str | None  # the one table that it can point to


@dataclass(frozen=True, slots=True)
class ExportColumn:
    """A column of an exported file."""

    name: str
    kind: Kind
    source: Member | Beside | Target
    places: int = 0  # of a decimal, after the point


def plan_columns(
    table: EntityTable,
    entries: Mapping[str, ColumnEntry],
    beside: Mapping[str, Sequence[str]],
    *,
    raw: bool = False,
) -> list[ExportColumn]:
    """The columns of a table's file, in the order of the table.

    Args:
        table: Its columns, as locked.
        entries: What the data dictionary tells of them; may be empty.
        beside: The texts that are read beside a column, such as its label.
        raw: Leave out the tables that lookups point to.
    """
    position = 0
    taken = {column.name.lower() for column in table.table.c}
    taken |= {name.lower() for names in beside.values() for name in names}
    columns = []
    for column in table.columns:
        entry = entries.get(column.name)
        columns.append(_plan_member(column, entry))
        for name in beside.get(column.name, ()):
            columns.append(ExportColumn(name, "text", Beside(position)))
            position += 1
        if not raw and (target := _find_target(column, entry)):
            lookup = _LOOKUP.fullmatch(column.name)
            name = f"{lookup[1] if lookup else column.name}_type"
            if name.lower() not in taken:  # else that column of the table has its place
                columns.append(ExportColumn(name, "text", target))
    columns.append(ExportColumn("sync_time", "moment", Beside(-2)))
    columns.append(ExportColumn("valid_from", "moment", Beside(-1)))
    return columns


def _plan_member(column: Column, entry: ColumnEntry | None) -> ExportColumn:
    kind, places = choose_kind(column.type, entry)
    return ExportColumn(column.name, kind, Member(column.name), places)


def choose_kind(locked: ColumnType, entry: ColumnEntry | None) -> tuple[Kind, int]:
    """The type of a column, and the places of a decimal: by the dictionary, else by the lock."""
    told = entry.type if entry is not None else None
    if entry is None or told is None:
        return _LOCKED_KINDS[locked], 0
    if told == "DateTime":
        kinds: Mapping[str | None, Kind] = {"DateOnly": "date", "TimeZoneIndependent": "local"}
        return kinds.get(entry.date_behavior, "moment"), 0
    if told in _PLACES:
        places = _PLACES[told] if entry.precision is None else entry.precision
        return "decimal", min(max(places, 0), MOST_DIGITS)
    return _KINDS.get(told, _LOCKED_KINDS[locked]), 0


def _find_target(column: Column, entry: ColumnEntry | None) -> Target | None:
    """How the table that a lookup points to is known; None if it is not, or is no lookup."""
    if column.name == OWNER:
        return Target(column.name, None)
    targets = (entry.targets if entry is not None else ()) or column.targets
    if not targets:
        return None
    return Target(column.name, targets[0] if len(targets) == 1 else None)


def iter_members(columns: Sequence[ExportColumn]) -> Iterator[tuple[str, Kind]]:
    """Each member of the records that is needed, once, with its type."""
    found: dict[str, Kind] = {}
    for column in columns:
        if isinstance(column.source, Member):
            found[column.source.name] = column.kind
    for column in columns:
        if isinstance(column.source, Target):
            found.setdefault(column.source.member + ANNOTATION, "text")
            if column.source.member == OWNER:
                for name in OWNERS:
                    found.setdefault(name, "text")
    yield from found.items()


def widen(column: ExportColumn, values: Sequence[object]) -> ExportColumn:
    """The column as it must be for these values, which it cannot hold: more places, else text."""
    numbers = [Decimal(value) for value in values if isinstance(value, int | Decimal)]
    if column.kind == "decimal" and numbers:
        whole = max(number.adjusted() + 1 for number in numbers)
        places = max(-int(number.as_tuple().exponent) for number in numbers)
        if column.places < places and places + max(whole, 0) <= MOST_DIGITS:
            return replace(column, places=places)
    return replace(column, kind="text", places=0)
