"""Records as Python values, as rows of SQLite, and as the JSON the service writes.

A record's JSON is made once, when it is written: reading a page is then joining bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from .columns import TO_JSON, TO_SQL, SqlValue, Storage, guid_rank
from .tables import Table

_SQL_TYPES: dict[Storage, type[sa.types.TypeEngine[Any]]] = {
    Storage.WHOLE: sa.BigInteger,
    Storage.BOOLEAN: sa.Integer,
}
_SQLITE = sa.create_engine("sqlite://").dialect


class StoredTable:
    """A table's description, where its rows are, and how its records become rows and JSON."""

    def __init__(self, spec: Table, number: int, schema_version: int = 0) -> None:
        self.spec = spec
        self.schema_version = schema_version
        members = list(spec.members.values())
        # Columns go by number: names that differ by case, or hold quotes, are one to SQLite.
        self.sql = sa.Table(
            f"t{number}",
            sa.MetaData(),
            sa.Column("rank", sa.Text, key="rank!", primary_key=True),
            sa.Column("version", sa.BigInteger, key="version!", nullable=False),
            sa.Column("json", sa.LargeBinary, key="json!", nullable=False),
            *(
                sa.Column(f"c{i}", _SQL_TYPES.get(member.storage, sa.Text), key=member.name)
                for i, member in enumerate(members)
            ),
        )
        self.rank = self.sql.c["rank!"]
        self.version = self.sql.c["version!"]
        self.json = self.sql.c["json!"]
        self.key = self.sql.c[spec.key]
        sa.Index(f"t{number}_version", self.version)
        if "modifiedon" in spec.members:
            sa.Index(f"t{number}_modifiedon", self.sql.c["modifiedon"], self.rank)
        self.write = str(self.sql.insert().prefix_with("OR REPLACE").compile(dialect=_SQLITE))
        self._place = {member.name: i for i, member in enumerate(members)}
        # A record may name a lookup by its column too.
        self._accepted = self._place | {
            member.column.name: i
            for i, member in enumerate(members)
            if member.name == f"_{member.column.name}_value"
        }
        self._to_sql = [TO_SQL[member.storage] for member in members]
        self._writers = {
            name: (json.dumps(name, ensure_ascii=False) + ":", TO_JSON[member.storage])
            for name, member in spec.members.items()
        }

    @property
    def values(self) -> list[sa.Column[Any]]:
        """The columns that hold a record's members, in their order."""
        return [self.sql.c[name] for name in self._place]

    def to_values(
        self, record: Mapping[str, object], onto: Sequence[SqlValue] = ()
    ) -> list[SqlValue]:
        """One SQL value for every member; what ``record`` does not name stays as in ``onto``.

        A name that is neither a member nor a lookup column of the table is a KeyError.
        """
        values: list[SqlValue] = list(onto) or [None] * len(self._place)
        for name, value in record.items():
            i = self._accepted[name]
            values[i] = None if value is None else self._to_sql[i](value)
        return values

    def to_fitting_values(self, record: Mapping[str, object]) -> list[SqlValue]:
        """One SQL value for every member; a value that no column can hold is dropped."""
        values = self.to_values({})
        for name, value in record.items():
            with suppress(TypeError, KeyError):
                values = self.to_values({name: value}, values)
        return values

    def system_values(self, **values: object) -> dict[str, object]:
        """The given values that this table has a column for."""
        return {name: value for name, value in values.items() if name in self._place}

    def named(self, values: Sequence[SqlValue]) -> dict[str, SqlValue]:
        return dict(zip(self._place, values, strict=True))

    def to_row(self, values: Sequence[SqlValue], version: int) -> tuple[Any, ...]:
        id_ = str(values[self._place[self.spec.key]])
        return (guid_rank(id_), version, self.to_json(values, version), *values)

    def to_json(self, values: Sequence[SqlValue], version: int) -> bytes:
        """The whole record: its filled members first, then its nulls, as the service does."""
        filled, nulls = [], []
        for (prefix, write), value in zip(self._writers.values(), values, strict=True):
            if value is None:
                nulls.append(prefix + "null")
            else:
                filled.append(prefix + write(value))
        return self.join(filled + nulls, version)

    def to_partial_json(
        self, names: Sequence[str], values: Sequence[SqlValue], version: int
    ) -> bytes:
        """Some members of a record, in the order they were asked for."""
        return self.join(list(map(self.write_member, names, values)), version)

    def write_member(self, name: str, value: SqlValue) -> str:
        prefix, write = self._writers[name]
        return prefix + ("null" if value is None else write(value))

    def join(self, parts: Sequence[str], version: int) -> bytes:
        return f'{{"@odata.etag":"W/\\"{version}\\"",{",".join(parts)}}}'.encode()


def parse_record(text: bytes) -> dict[str, Any]:
    """A record's JSON as Python values, decimals exact, without its etag."""
    record: dict[str, Any] = json.loads(text, parse_float=Decimal)
    record.pop("@odata.etag", None)
    return record
