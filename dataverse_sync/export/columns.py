"""Decide the columns of an exported file: their names, their types, and where values come from.

Pure functions over the locked schema and the data dictionary. Values come from ``json_response``,
which is exact, and not from the table's columns: a decimal is a float there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Literal

from dataverse_sync.model import ColumnType
from dataverse_sync.store.dictionary import ColumnEntry
from dataverse_sync.store.tables import EntityTable

Kind = Literal["text", "integer", "whole", "real", "boolean", "decimal", "date", "moment", "local"]
MOST_DIGITS = 38  # of a decimal that every reader of Parquet takes

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


@dataclass(frozen=True, slots=True)
class Member:
    """The value is a member of the record."""

    name: str


@dataclass(frozen=True, slots=True)
class Beside:
    """The value is read beside the record, at this position; from the end if that is negative."""

    position: int


@dataclass(frozen=True, slots=True)
class ExportColumn:
    """A column of an exported file."""

    name: str
    kind: Kind
    source: Member | Beside
    places: int = 0  # of a decimal, after the point


def plan_columns(
    table: EntityTable, entries: Mapping[str, ColumnEntry], beside: Mapping[str, Sequence[str]]
) -> list[ExportColumn]:
    """The columns of a table's file, in the order of the table.

    Args:
        table: Its columns, as locked.
        entries: What the data dictionary tells of them; may be empty.
        beside: The names of the texts that are read beside a column, such as its label.
    """
    position = 0
    columns = []
    for column in table.columns:
        kind, places = choose_kind(column.type, entries.get(column.name))
        columns.append(ExportColumn(column.name, kind, Member(column.name), places))
        for name in beside.get(column.name, ()):
            columns.append(ExportColumn(name, "text", Beside(position)))
            position += 1
    columns.append(ExportColumn("sync_time", "moment", Beside(-2)))
    columns.append(ExportColumn("valid_from", "moment", Beside(-1)))
    return columns


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


def widen(column: ExportColumn, values: Sequence[object]) -> ExportColumn:
    """The column as it must be for these values, which it cannot hold: more places, else text."""
    numbers = [Decimal(value) for value in values if isinstance(value, int | Decimal)]
    if column.kind == "decimal" and numbers:
        whole = max(number.adjusted() + 1 for number in numbers)
        places = max(-int(number.as_tuple().exponent) for number in numbers)
        if column.places < places and places + max(whole, 0) <= MOST_DIGITS:
            return replace(column, places=places)
    return replace(column, kind="text", places=0)
