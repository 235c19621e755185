"""Records as Python values, as rows of SQLite, and as the JSON the service writes.

A record's JSON is made once, when it is written: reading a page is then joining bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from .columns import TO_JSON, TO_SQL, SqlValue
from .tables import Table


class Codec:
    """Turns the records of one table into rows, and rows into JSON."""

    def __init__(self, table: Table) -> None:
        self.members = tuple(table.members.values())
        self._place = {member.name: i for i, member in enumerate(self.members)}
        self._accepted = self._place | {
            member.column.name: i
            for i, member in enumerate(self.members)
            if member.name == f"_{member.column.name}_value"
        }
        self._to_sql = [TO_SQL[member.storage] for member in self.members]
        self._writers = [
            (json.dumps(member.name, ensure_ascii=False) + ":", TO_JSON[member.storage])
            for member in self.members
        ]

    def place(self, name: str) -> int | None:
        return self._place.get(name)

    def to_values(
        self, record: Mapping[str, object], onto: Sequence[SqlValue] | None = None
    ) -> list[SqlValue]:
        """One SQL value for every member; what ``record`` does not name stays as in ``onto``.

        Raises:
            KeyError: A name that the table does not have, as member or as lookup column.
        """
        values: list[SqlValue] = list(onto) if onto else [None] * len(self.members)
        accepted, to_sql = self._accepted, self._to_sql
        for name, value in record.items():
            i = accepted[name]
            values[i] = None if value is None else to_sql[i](value)
        return values

    def named(self, values: Sequence[SqlValue]) -> dict[str, SqlValue]:
        return dict(zip(self._place, values, strict=True))

    def to_json(self, values: Sequence[SqlValue], version: int) -> bytes:
        """The whole record: its filled members first, then its nulls, as the service does."""
        filled = [f'{{"@odata.etag":"W/\\"{version}\\""']
        nulls = []
        for (prefix, write), value in zip(self._writers, values, strict=True):
            if value is None:
                nulls.append(prefix + "null")
            else:
                filled.append(prefix + write(value))
        return (",".join(filled + nulls) + "}").encode()

    def projected(
        self, names: Sequence[str], values: Sequence[SqlValue], version: int, extra: str = ""
    ) -> bytes:
        """Some members of a record, in the order they were asked for."""
        parts = [f'{{"@odata.etag":"W/\\"{version}\\""']
        for name, value in zip(names, values, strict=True):
            prefix, write = self._writers[self._place[name]]
            parts.append(prefix + ("null" if value is None else write(value)))
        return (",".join(parts) + extra + "}").encode()


def parse_record(text: bytes) -> dict[str, Any]:
    """A record's JSON as Python values, decimals exact, without its etag."""
    record: dict[str, Any] = json.loads(text, parse_float=Decimal)
    record.pop("@odata.etag", None)
    return record
