"""Make Arrow arrays of values: the one place where a column's type becomes Arrow's.

Moments are texts here, which Arrow parses; UTC is put on and taken off without a look into a
time zone database, which a machine may lack.

https://arrow.apache.org/docs/python/data.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dataverse_sync.export.columns import MOST_DIGITS, Beside, ExportColumn, Kind, Member, widen

MOMENT = pa.timestamp("us", tz="UTC")
LOCAL = pa.timestamp("us")
_TYPES: Mapping[Kind, pa.DataType] = {
    "text": pa.string(),
    "integer": pa.int64(),
    "whole": pa.int64(),
    "real": pa.float64(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
    "moment": MOMENT,
    "local": LOCAL,
}
_MISFITS = (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError)
_MORE_THAN_MICROSECONDS = r"(\.\d{6})\d+"


def build_schema(columns: Sequence[ExportColumn]) -> pa.Schema:
    return pa.schema([(column.name, _type_of(column)) for column in columns])


def _type_of(column: ExportColumn) -> pa.DataType:
    if column.kind == "decimal":
        return pa.decimal128(MOST_DIGITS, column.places)
    return _TYPES[column.kind]


def build_arrays(
    columns: Sequence[ExportColumn],
    members: Mapping[str, Sequence[Any]],
    beside: Sequence[Sequence[Any]],
) -> tuple[list[pa.Array], dict[str, ExportColumn]]:
    """One array for each column, and the columns that cannot hold their values, as they must be.

    ``members`` are the values of the records, ``beside`` those that were read beside them.
    """
    arrays, misfits = [], {}
    for column in columns:
        match column.source:
            case Member(name):
                values = members[name]
            case Beside(position):
                values = beside[position]
        try:
            arrays.append(_build_array(column, values))
        except _MISFITS:
            misfits[column.name] = widen(column, values)
            arrays.append(pa.nulls(len(values), _type_of(column)))
    return arrays, misfits


def _build_array(column: ExportColumn, values: Sequence[Any]) -> pa.Array:
    match column.kind:
        case "whole":
            return pa.array([v if v is None else int(v) for v in values], pa.int64())
        case "date":
            return pa.array(values, pa.string()).cast(pa.date32())
        case "moment":
            return _parse(pa.array(values, pa.string()), MOMENT)
        case "local":  # the service writes a Z, though it is not UTC
            texts = pc.replace_substring_regex(pa.array(values, pa.string()), "Z$", "")
            return _parse(texts, LOCAL)
    return pa.array(values, _type_of(column))


def _parse(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    try:
        return texts.cast(kind)
    except pa.ArrowInvalid:
        return pc.replace_substring_regex(texts, _MORE_THAN_MICROSECONDS, r"\1").cast(kind)


def without_zone(array: pa.Array) -> pa.Array:
    """The same moments in UTC, without saying so."""
    return array.view(LOCAL) if array.type == MOMENT else array
