"""Read the members of records out of their JSON, each as the type of its column.

One struct is made for all members of a table, as for syncing: msgspec decodes a record in a
microsecond or two, and a decimal digit by digit. A record that does not fit is read slowly.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, cast

import msgspec

from dataverse_sync.export.columns import Kind
from dataverse_sync.store.tables import INT64

_TYPES: Mapping[Kind, Any] = {
    "text": str,
    "integer": int,
    "whole": int | bool,
    "real": float,
    "boolean": bool,
    "decimal": Decimal,
    "date": str,
    "moment": str,
    "local": str,
}


class RecordReader:
    """Reads records into one list of values for each member."""

    def __init__(self, members: Mapping[str, Kind]) -> None:
        self._members = members
        names = {f"c{at}": name for at, name in enumerate(members)}
        fields = [
            (field, _TYPES[kind] | None, None)
            for field, kind in zip(names, members.values(), strict=True)
        ]
        struct = msgspec.defstruct("Record", fields, rename=names, gc=False)
        self._decode = cast(Any, msgspec.json.Decoder(struct).decode)
        self.misfits: set[str] = set()  # members that held a value of another type

    def read(self, texts: Iterable[str]) -> dict[str, Sequence[Any]]:
        """The values by member, null where a record has none or it is of another type.

        A text that is not a JSON object is a ValueError.
        """
        rows = []
        for text in texts:
            try:
                rows.append(msgspec.structs.astuple(self._decode(text)))
            except (msgspec.MsgspecError, RecursionError):
                rows.append(self._read_slowly(text))
        columns = zip(*rows, strict=True) if rows else ([] for _ in self._members)
        return dict(zip(self._members, columns, strict=True))

    def _read_slowly(self, text: str) -> tuple[Any, ...]:
        record = json.loads(text, parse_float=Decimal, parse_int=Decimal)
        if not isinstance(record, dict):
            raise ValueError("not an object")
        values = []
        for name, kind in self._members.items():
            value = record.get(name)
            if isinstance(value, dict | list):
                value = json.dumps(json.loads(text)[name], separators=(",", ":"))
            fitted = fit(value, kind)
            if fitted is None and value is not None:
                self.misfits.add(name)
            values.append(fitted)
        return tuple(values)


def fit(value: object, kind: Kind) -> Any:
    """A value of JSON, its numbers decimals, as a column's type; None if it does not fit."""
    if kind == "text" and value is not None:
        text = json.dumps(value) if isinstance(value, bool) else str(value)
        return text.encode("utf-8", "replace").decode()  # a lone surrogate is not UTF-8
    if isinstance(value, str):
        return value if kind in ("date", "moment", "local") else None
    if isinstance(value, bool):
        return value if kind in ("boolean", "whole") else None
    if isinstance(value, Decimal):
        if kind == "decimal":
            return value
        if kind == "real":
            return number if math.isfinite(number := float(value)) else None
        if kind in ("integer", "whole") and INT64[0] <= value <= INT64[1] and value % 1 == 0:
            return int(value)
    return None
