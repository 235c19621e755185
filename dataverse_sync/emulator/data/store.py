"""The environment's data: SQLite in memory, through SQLAlchemy Core, behind one lock.

Every write takes the next number of one counter for the whole environment, as SQL Server's
rowversion does. A write can also wait: it has its number and its ``modifiedon``, but nobody
sees it before ``commit``. While one waits, ``safe_version`` stays below its number, so that
a delta token never passes a record that is yet to appear.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import StaticPool

from .clock import Clock
from .columns import SqlValue, Storage, guid_rank, moment_text, new_id
from .records import Codec, parse_record
from .tables import Table

_SQL_TYPES: dict[Storage, type[sa.types.TypeEngine[Any]]] = {
    Storage.WHOLE: sa.BigInteger,
    Storage.BOOLEAN: sa.Integer,
}
_FIRST_VERSION = 919_000


class StoredTable:
    """A table's description, and where its rows are."""

    def __init__(self, spec: Table, number: int, schema_version: int = 0) -> None:
        self.spec = spec
        self.schema_version = schema_version
        self.codec = Codec(spec)
        self.keyed = list(spec.members).index(spec.key)
        # Columns go by number: names that differ by case, or hold quotes, are one to SQLite.
        self.sql = sa.Table(
            f"t{number}",
            sa.MetaData(),
            sa.Column("rank", sa.Text, key="rank!", primary_key=True),
            sa.Column("version", sa.BigInteger, key="version!", nullable=False),
            sa.Column("json", sa.LargeBinary, key="json!", nullable=False),
            *(
                sa.Column(f"c{i}", _SQL_TYPES.get(member.storage, sa.Text), key=member.name)
                for i, member in enumerate(self.codec.members)
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

    def to_row(self, values: Sequence[SqlValue], version: int) -> tuple[Any, ...]:
        return (
            guid_rank(str(values[self.keyed])),
            version,
            self.codec.to_json(values, version),
            *values,
        )


_SQLITE = sa.create_engine("sqlite://").dialect


class Store:
    """Tables by entity set name. Safe to use from any thread."""

    def __init__(self, clock: Clock) -> None:
        self.lock = threading.RLock()
        self.version = _FIRST_VERSION
        self.tables: dict[str, StoredTable] = {}
        self._clock = clock
        self._made = 0
        # By name, so that a column added meanwhile does no harm.
        self._waiting: dict[str, tuple[str, dict[str, SqlValue], int]] = {}
        self._removed: dict[tuple[str, str], dict[str, SqlValue]] = {}
        self._engine = sa.create_engine(
            "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
        )
        sa.event.listen(self._engine, "connect", _teach_sqlite)
        self._deleted = sa.Table(
            "deleted",
            sa.MetaData(),
            sa.Column("entity_set", sa.Text, primary_key=True),
            sa.Column("rank", sa.Text, primary_key=True),
            sa.Column("id", sa.Text, nullable=False),
            sa.Column("version", sa.BigInteger, nullable=False),
        )
        self._deleted.create(self._engine)

    def close(self) -> None:
        with self.lock:
            self._engine.dispose()

    # Reading

    def read(self, statement: sa.Select[Any]) -> Sequence[Sequence[Any]]:
        with self.lock, self._engine.connect() as connection:
            return connection.execute(statement).all()

    def count(self, table: StoredTable, *where: sa.ColumnElement[bool]) -> int:
        query = sa.select(sa.func.count()).select_from(table.sql).where(*where)
        return int(self.read(query)[0][0])

    def record_bytes(self, entity_set: str, id_: str) -> bytes:
        table = self.tables[entity_set]
        rows = self.read(sa.select(table.json).where(table.rank == guid_rank(id_)))
        if not rows:
            raise KeyError(f"{entity_set} has no record {id_}")
        return bytes(rows[0][0])

    def ids(self, entity_set: str) -> list[str]:
        table = self.tables[entity_set]
        return [row[0] for row in self.read(sa.select(table.key).order_by(table.rank))]

    def rows(self, entity_set: str) -> dict[str, dict[str, Any]]:
        table = self.tables[entity_set]
        rows = self.read(sa.select(table.key, table.json).order_by(table.rank))
        return {key: parse_record(text) for key, text in rows}

    def version_of(self, table: StoredTable, id_: str) -> int:
        return int(self.read(sa.select(table.version).where(table.rank == guid_rank(id_)))[0][0])

    def deleted_since(self, entity_set: str, version: int, limit: int) -> list[tuple[str, int]]:
        """Ids deleted after ``version``, in the order they were, with their versions."""
        deleted = self._deleted
        query = (
            sa.select(deleted.c.id, deleted.c.version)
            .where(deleted.c.entity_set == entity_set, deleted.c.version > version)
            .order_by(deleted.c.version)
            .limit(limit)
        )
        return [(row[0], row[1]) for row in self.read(query)]

    @property
    def safe_version(self) -> int:
        """All writes up to this one can be seen (SQL Server's min_active_rowversion - 1)."""
        with self.lock:
            waiting = [version for _, _, version in self._waiting.values()]
            return min(waiting, default=self.version + 1) - 1

    # Writing

    def insert(
        self,
        entity_set: str,
        records: Iterable[Mapping[str, object]],
        *,
        committed: bool = True,
    ) -> list[str]:
        """Write new records; ids and moments that they do not name are made up."""
        now = moment_text(self._clock.now())
        with self.lock:
            table = self.tables[entity_set]
            codec, keyed = table.codec, table.keyed
            ids, rows = [], []
            blank = codec.to_values(
                {name: now for name in ("createdon", "modifiedon") if name in table.spec.members}
            )
            numbered = codec.place("versionnumber")
            for record in records:
                self.version += 1
                values = codec.to_values(record, blank)
                values[keyed] = values[keyed] or new_id()
                if numbered is not None:
                    values[numbered] = self.version
                id_ = str(values[keyed])
                ids.append(id_)
                if committed:
                    rows.append(table.to_row(values, self.version))
                else:
                    self._waiting[id_] = (entity_set, codec.named(values), self.version)
            self._write(table, rows)
            self._undelete(table)
        return ids

    def update(
        self,
        entity_set: str,
        id_: str,
        changes: Mapping[str, object],
        *,
        modifiedon: object = None,
        committed: bool = True,
    ) -> None:
        with self.lock:
            table = self.tables[entity_set]
            self._put(
                table,
                table.codec.to_values(changes, self._values(table, id_)),
                id_,
                modifiedon,
                committed,
            )

    def commit(self, id_: str) -> None:
        """Let everyone see a write that waited, with the version and moment it got then."""
        with self.lock:
            entity_set, record, version = self._waiting.pop(id_)
            table = self.tables[entity_set]
            values = _converted(table.codec, record)
            self._write(table, [table.to_row(values, version)])
            self._undelete(table)

    def delete(self, entity_set: str, id_: str) -> None:
        with self.lock:
            table = self.tables[entity_set]
            self._removed[entity_set, id_] = table.codec.named(self._values(table, id_))
            self.version += 1
            rank = guid_rank(id_)
            with self._engine.begin() as connection:
                connection.execute(table.sql.delete().where(table.rank == rank))
                connection.execute(
                    self._deleted.insert().values(
                        entity_set=entity_set, rank=rank, id=id_, version=self.version
                    )
                )

    def restore(self, entity_set: str, id_: str, *, modifiedon: object = None) -> None:
        with self.lock:
            table = self.tables[entity_set]
            values = _converted(table.codec, self._removed.pop((entity_set, id_)))
            self._put(table, values, id_, modifiedon, committed=True)
            self._undelete(table)

    def _put(
        self,
        table: StoredTable,
        values: list[SqlValue],
        id_: str,
        modifiedon: object,
        committed: bool,
    ) -> None:
        self.version += 1
        codec = table.codec
        system = {"modifiedon": modifiedon or self._clock.now(), "versionnumber": self.version}
        values = codec.to_values(
            {name: value for name, value in system.items() if name in table.spec.members}, values
        )
        if committed:
            self._write(table, [table.to_row(values, self.version)])
        else:
            self._waiting[id_] = (table.spec.entity_set, codec.named(values), self.version)

    def _values(self, table: StoredTable, id_: str) -> list[SqlValue]:
        columns = [table.sql.c[member.name] for member in table.codec.members]
        rows = self.read(sa.select(*columns).where(table.rank == guid_rank(id_)))
        if not rows:
            raise KeyError(f"{table.spec.entity_set} has no record {id_}")
        return list(rows[0])

    def _write(self, table: StoredTable, rows: list[tuple[Any, ...]]) -> None:
        if rows:
            with self._engine.begin() as connection:
                connection.exec_driver_sql(table.write, rows)

    def _undelete(self, table: StoredTable) -> None:
        # A record that is there again is no longer reported as deleted.
        deleted = self._deleted
        with self._engine.begin() as connection:
            connection.execute(
                deleted.delete().where(
                    deleted.c.entity_set == table.spec.entity_set,
                    deleted.c.rank.in_(sa.select(table.rank)),
                )
            )

    # Tables

    def add_table(self, spec: Table) -> None:
        with self.lock:
            if spec.entity_set in self.tables:
                raise ValueError(f"there is already a table {spec.entity_set}")
            self.tables[spec.entity_set] = self._make(spec, 0)

    def remove_table(self, entity_set: str) -> None:
        with self.lock:
            table = self.tables.pop(entity_set)
            table.sql.drop(self._engine)

    def change_table(self, entity_set: str, spec: Table) -> None:
        """Give a table other columns: rows keep their versions, delta tokens end."""
        with self.lock:
            old = self.tables[entity_set]
            new = self._make(spec, old.schema_version + 1)
            query = sa.select(old.version, *(old.sql.c[m.name] for m in old.codec.members))
            rows = []
            for row in self.read(query):
                record = old.codec.named(row[1:])
                rows.append(new.to_row(_converted(new.codec, record), row[0]))
            self._write(new, rows)
            self.tables[entity_set] = new
            old.sql.drop(self._engine)

    def _make(self, spec: Table, schema_version: int) -> StoredTable:
        self._made += 1
        table = StoredTable(spec, self._made, schema_version)
        table.sql.create(self._engine)
        return table


def _converted(codec: Codec, record: Mapping[str, SqlValue]) -> list[SqlValue]:
    values: list[SqlValue] = codec.to_values({})
    for name, value in record.items():
        # A value that the new type cannot hold is lost, as in a column made anew.
        with suppress(TypeError, KeyError):
            values = codec.to_values({name: value}, values)
    return values


def _teach_sqlite(connection: Any, _record: object) -> None:
    connection.create_collation("service", _compare_texts)
    connection.create_function("guid_rank", 1, _rank_or_none, deterministic=True)
    connection.create_function("matches", 2, _matches, deterministic=True)


def _compare_texts(a: str, b: str) -> int:
    a, b = a.casefold(), b.casefold()
    return (a > b) - (a < b)


def _rank_or_none(guid: str | None) -> str | None:
    return None if guid is None else guid_rank(guid)


def _matches(text: str | None, pattern: str) -> bool | None:
    return None if text is None else bool(_like(pattern).fullmatch(text))


@lru_cache(maxsize=512)
def _like(pattern: str) -> re.Pattern[str]:
    """SQL Server's LIKE: ``%``, ``_`` and ``[a-c]``, whatever the case."""
    out = []
    for token in re.findall(r"\[\^?[^\]]+\]|.", pattern, re.DOTALL):
        if token in {"%", "_"}:
            out.append(".*" if token == "%" else ".")  # noqa: S105  a wildcard, no password
        elif len(token) > 1:
            out.append(token.replace("\\", r"\\"))
        else:
            out.append(re.escape(token))
    return re.compile("".join(out), re.IGNORECASE | re.DOTALL)
