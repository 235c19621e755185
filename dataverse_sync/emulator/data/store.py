"""The environment's data: SQLite in memory, through SQLAlchemy Core, behind one lock.

Every write takes the next number of one counter for the whole environment, as SQL Server's
rowversion does. A write can also wait: it has its number and its ``modifiedon``, but nobody
sees it before ``commit``. While one waits, ``safe_version`` stays below its number, so that
a delta token never passes a record that is yet to appear.
"""

from __future__ import annotations

import datetime as dt
import threading
import uuid
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import StaticPool

from .clock import Clock
from .columns import Column, SqlValue, guid_rank, moment_text
from .records import StoredTable, parse_record
from .tables import STRINGMAPS, Table

_FIRST_VERSION = 919_000


class Store:
    """Tables and their records, by entity set name. Safe to use from any thread.

    Records are dicts by JSON name (``_primarycontactid_value``) or, for lookups, by column
    name.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.lock = threading.RLock()
        self.version = _FIRST_VERSION
        self.tables: dict[str, StoredTable] = {}
        self._made = 0
        # By name, so that a column added meanwhile does no harm.
        self._waiting: dict[str, tuple[str, dict[str, SqlValue], int]] = {}
        self._removed: dict[tuple[str, str], dict[str, SqlValue]] = {}
        self._engine = sa.create_engine(
            "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
        )
        sa.event.listen(self._engine, "connect", _teach_sqlite)
        weakref.finalize(self, self._engine.dispose)
        self._deleted = sa.Table(
            "deleted",
            sa.MetaData(),
            sa.Column("entity_set", sa.Text, primary_key=True),
            sa.Column("rank", sa.Text, primary_key=True),
            sa.Column("id", sa.Text, nullable=False),
            sa.Column("version", sa.BigInteger, nullable=False),
        )
        self._deleted.create(self._engine)

    # Reading

    @property
    def specs(self) -> list[Table]:
        return [table.spec for table in list(self.tables.values())]

    def find_table(self, logical_name: str) -> StoredTable | None:
        tables = list(self.tables.values())
        return next((each for each in tables if each.spec.logical_name == logical_name), None)

    def read(self, statement: sa.Select[Any]) -> Sequence[Sequence[Any]]:
        with self.lock, self._engine.connect() as connection:
            return connection.execute(statement).all()

    def count(self, table: StoredTable, *where: sa.ColumnElement[bool]) -> int:
        query = sa.select(sa.func.count()).select_from(table.sql).where(*where)
        return int(self.read(query)[0][0])

    def record_bytes(self, entity_set: str, id: str) -> bytes:
        """A record exactly as a full read sends it."""
        table = self.tables[entity_set]
        return bytes(self._read_one(table, id, table.json)[0])

    def ids(self, entity_set: str) -> list[str]:
        """Every record's id, in the order the service sorts them."""
        table = self.tables[entity_set]
        return [row[0] for row in self.read(sa.select(table.key).order_by(table.rank))]

    def rows(self, entity_set: str) -> dict[str, dict[str, Any]]:
        """Every record by id, as its JSON reads, without the etag."""
        table = self.tables[entity_set]
        rows = self.read(sa.select(table.key, table.json).order_by(table.rank))
        return {key: parse_record(text) for key, text in rows}

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
        record: Mapping[str, object],
        *,
        id: str | None = None,
        createdon: dt.datetime | str | None = None,
        modifiedon: dt.datetime | str | None = None,
        committed: bool = True,
    ) -> str:
        """Write a record and return its id; uncommitted, nobody sees it before ``commit``."""
        key = self.tables[entity_set].spec.key
        given = {key: id, "createdon": createdon, "modifiedon": modifiedon}
        named = {name: value for name, value in given.items() if value is not None}
        return self.insert_many(entity_set, [{**record, **named}], committed=committed)[0]

    def insert_many(
        self, entity_set: str, records: Iterable[Mapping[str, object]], *, committed: bool = True
    ) -> list[str]:
        """Write new records; ids and moments that they do not name are made up."""
        now = moment_text(self.clock.now())
        with self.lock:
            table = self.tables[entity_set]
            blank = table.to_values(table.system_values(createdon=now, modifiedon=now))
            ids, rows = [], []
            for record in records:
                self.version += 1
                id_ = str(record.get(table.spec.key) or uuid.uuid4()).lower()
                system = table.system_values(versionnumber=self.version)
                values = table.to_values({**record, table.spec.key: id_, **system}, blank)
                ids.append(id_)
                if committed:
                    rows.append(table.to_row(values, self.version))
                else:
                    self._waiting[id_] = (entity_set, table.named(values), self.version)
            self._write(table, rows)
        return ids

    def update(
        self,
        entity_set: str,
        id: str,
        changes: Mapping[str, object],
        *,
        modifiedon: dt.datetime | str | None = None,
        committed: bool = True,
    ) -> None:
        """Change a record; with ``modifiedon`` as an import would, that moment kept."""
        with self.lock:
            table = self.tables[entity_set]
            values = table.to_values(changes, self._read_one(table, id, *table.values))
            self._put(table, values, id, modifiedon, committed)

    def commit(self, id: str) -> None:
        """Let everyone see a write that waited, with the version and moment it got then."""
        with self.lock:
            entity_set, record, version = self._waiting.pop(id)
            table = self.tables[entity_set]
            self._write(table, [table.to_row(table.to_fitting_values(record), version)])

    def delete(self, entity_set: str, id: str) -> None:
        with self.lock:
            table = self.tables[entity_set]
            values = self._read_one(table, id, *table.values)
            self._removed[entity_set, id] = table.named(values)
            self.version += 1
            rank = guid_rank(id)
            gone = {"entity_set": entity_set, "rank": rank, "id": id, "version": self.version}
            with self._engine.begin() as connection:
                connection.execute(table.sql.delete().where(table.rank == rank))
                connection.execute(self._deleted.insert().values(gone))

    def restore(
        self, entity_set: str, id: str, *, modifiedon: dt.datetime | str | None = None
    ) -> None:
        """Bring a deleted record back under its id, as modified now unless said otherwise."""
        with self.lock:
            table = self.tables[entity_set]
            values = table.to_fitting_values(self._removed.pop((entity_set, id)))
            self._put(table, values, id, modifiedon, committed=True)

    def _put(
        self, table: StoredTable, values: list[SqlValue], id_: str, when: object, committed: bool
    ) -> None:
        self.version += 1
        moment = when or self.clock.now()
        system = table.system_values(modifiedon=moment, versionnumber=self.version)
        values = table.to_values(system, values)
        if committed:
            self._write(table, [table.to_row(values, self.version)])
        else:
            self._waiting[id_] = (table.spec.entity_set, table.named(values), self.version)

    def _read_one(
        self, table: StoredTable, id_: str, *columns: sa.ColumnElement[Any]
    ) -> Sequence[Any]:
        rows = self.read(sa.select(*columns).where(table.rank == guid_rank(id_)))
        if not rows:
            raise KeyError(f"{table.spec.entity_set} has no record {id_}")
        return rows[0]

    def _write(self, table: StoredTable, rows: list[tuple[Any, ...]]) -> None:
        if not rows:
            return
        deleted = self._deleted.c
        # A record that is there again is no longer reported as deleted.
        undelete = self._deleted.delete().where(
            deleted.entity_set == table.spec.entity_set, deleted.rank.in_(sa.select(table.rank))
        )
        with self._engine.begin() as connection:
            connection.exec_driver_sql(table.write, rows)
            connection.execute(undelete)

    # Tables

    def add_table(self, spec: Table) -> None:
        with self.lock:
            if spec.entity_set in self.tables:
                raise ValueError(f"there is already a table {spec.entity_set}")
            self.tables[spec.entity_set] = self._make(spec, 0)
            if spec.entity_set == STRINGMAPS.entity_set:
                for table in self.specs:
                    self._map_labels(table, table.columns)
            elif STRINGMAPS.entity_set in self.tables:
                self._map_labels(spec, spec.columns)

    def remove_table(self, entity_set: str) -> None:
        with self.lock:
            self.tables.pop(entity_set).sql.drop(self._engine)

    def add_column(self, entity_set: str, column: Column) -> None:
        spec = self.tables[entity_set].spec
        self._change_table(entity_set, spec.with_column(column))
        self._map_labels(spec, [column])

    def drop_column(self, entity_set: str, name: str) -> None:
        self._change_table(entity_set, self.tables[entity_set].spec.without_column(name))

    def retype_column(self, entity_set: str, name: str, type: str) -> None:
        self._change_table(entity_set, self.tables[entity_set].spec.with_type(name, type))

    def _change_table(self, entity_set: str, spec: Table) -> None:
        """Give a table other columns: rows keep their versions, delta tokens end."""
        with self.lock:
            old = self.tables[entity_set]
            new = self._make(spec, old.schema_version + 1)
            rows = [
                new.to_row(new.to_fitting_values(old.named(values)), version)
                for version, *values in self.read(sa.select(old.version, *old.values))
            ]
            self._write(new, rows)
            self.tables[entity_set] = new
            old.sql.drop(self._engine)

    def _make(self, spec: Table, schema_version: int) -> StoredTable:
        self._made += 1
        table = StoredTable(spec, self._made, schema_version)
        table.sql.create(self._engine)
        return table

    def _map_labels(self, table: Table, columns: Sequence[Column]) -> None:
        labels = [
            {
                "objecttypecode": table.logical_name,
                "attributename": column.name,
                "attributevalue": value,
                "value": label,
                "langid": 1033,
                "displayorder": order,
            }
            for column in columns
            for order, (value, label) in enumerate((column.options or {}).items(), start=1)
        ]
        self.insert_many(STRINGMAPS.entity_set, labels)


def _teach_sqlite(connection: Any, _record: object) -> None:
    connection.create_collation("service", _compare_texts)
    connection.create_function("guid_rank", 1, lambda g: g and guid_rank(g), deterministic=True)


def _compare_texts(a: str, b: str) -> int:
    a, b = a.casefold(), b.casefold()
    return (a > b) - (a < b)
