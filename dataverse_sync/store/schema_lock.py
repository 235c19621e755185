"""The schema lock in its two homes, the file and the database, and what differed from it.

Whoever works on the tables of an environment opens its copy here: database and lock together.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from dataverse_sync.errors import DAMAGED, ConfigError, StorageError
from dataverse_sync.files import try_folder
from dataverse_sync.model import Drift, EntityConfig
from dataverse_sync.moments import to_text
from dataverse_sync.schema.lock import SchemaLock, dump_lock, load_lock, parse_lock, save_lock
from dataverse_sync.store import tables as store_tables
from dataverse_sync.store.database import OWN_TABLES, Target, dialect_of, reading
from dataverse_sync.store.environment import ENVIRONMENT, Environment, load_environment
from dataverse_sync.store.tables import EntityTable, StoredTables

SCHEMA_LOCK = sa.Table(
    "_schema_lock",
    OWN_TABLES,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("schema", sa.Text, nullable=False),
    sa.Column("locked_at", sa.Text, nullable=False),
    sa.Column("replaces", sa.Text),  # the lock before it: a file that still says this is behind
)
SCHEMA_CHANGES = sa.Table(
    "_schema_changes",
    OWN_TABLES,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("entity_name", sa.Text, nullable=False),
    sa.Column("column_name", sa.Text),
    sa.Column("change", sa.Text, nullable=False),
    sa.Column("severity", sa.Text, nullable=False),
    sa.Column("old_type", sa.Text),
    sa.Column("new_type", sa.Text),
    sa.Column("detected_at", sa.Text, nullable=False),
    sa.Column("standing", sa.Integer, nullable=False, default=1),
)
_STATE = "_sync_state"
_STATE_TYPES = {
    "entity_name": str,
    "state": str,
    "last_timestamp": str | None,
    "records_count": int,
    "checkpoint": str | None,
    "delta_link": str | None,
    "compared_at": str | None,
    "asked_how": str | None,
    "rights": str | None,
}


@dataclass(frozen=True, slots=True)
class LockedSchema:
    """What is locked, and how the tables of the database fit it."""

    lock: SchemaLock  # of file and database together
    tables: StoredTables
    misfits: tuple[str, ...]
    is_file_current: bool
    environment: Environment | None  # that the database was made from; None: not recorded

    def build_tables(self, entities: Iterable[EntityConfig]) -> dict[str, EntityTable]:
        """The tables of these entities, but those that are not locked or not made yet."""
        made = self.lock.keys() & self.tables.keys()
        names = [entity.name for entity in entities if entity.name in made]
        return {name: store_tables.build_table(self.lock[name]) for name in names}


@contextmanager
def open_copy(
    target: Target,
    schema_path: str | Path,
    *,
    write: bool = False,
    must_exist: bool = True,
    must_fit: bool = True,
) -> Iterator[LockedSchema]:
    """Check a database and load its schema; nothing is written, and no connection opened.

    To ``write``, the run lock is held for as long as the block lasts: LockedError if another
    run holds it. Whatever is not usable is a ConfigError.
    """
    target.check(to_write=write)
    if not must_exist:  # then the file may have to be made too
        _check_place(Path(schema_path))
    elif not target.exists():
        raise ConfigError(
            f"{target.name}: there is no database yet",
            "Run a sync first, or name the database with --db or SQLITE_DB_PATH.",
        )
    with target.hold(datetime.now(UTC)) if write else nullcontext():
        yield load_schema(target, schema_path, must_fit=must_fit)


def _check_place(path: Path) -> None:
    """Raise a ConfigError if the folder of the lock file is missing and cannot be made."""
    try:
        if not path.parent.is_dir():
            try_folder(path.parent)
    except OSError as error:
        raise ConfigError(
            f"{path}: the folder cannot be made ({error.strerror or error})",
            "Name another with --schema.",
        ) from error


def load_schema(target: Target, schema_path: str | Path, *, must_fit: bool = True) -> LockedSchema:
    """Read the file and the database's copy; writes nothing.

    The copy is right if the file lacks an entity that the copy has, or is the very lock that
    the copy replaced (a run was killed between the two). If it ``must_fit``, a table that
    does not have what is locked is a ConfigError.
    """
    filed = load_lock(Path(schema_path))
    tables: StoredTables = {}
    copied: SchemaLock = {}
    replaced = environment = None
    if target.size():
        with reading(target) as connection:
            tables = dialect_of(connection).read_tables(connection)
            if SCHEMA_LOCK.name in tables:
                copied, replaced = load_lock_copy(connection, target.name)
            if ENVIRONMENT.name in tables:
                environment = load_environment(connection)
            if _STATE in tables:
                _check_states(connection, tables[_STATE], target.name)
    is_behind = filed is None or dump_lock(filed) == replaced
    lock = copied if is_behind else {**copied, **(filed or {})}
    misfits = tuple(store_tables.find_misfits(lock, tables))
    if must_fit and misfits:
        raise ConfigError(
            f"{schema_path} does not fit the database {target.name}: {'; '.join(misfits)}",
            "Name the schema that this database was made from with --schema, or bring the tables "
            "up to it: python -m dataverse_sync schema accept",
        )
    return LockedSchema(lock, tables, misfits, filed == lock, environment)


def _check_states(connection: sa.Connection, has: Collection[str], where: str) -> None:
    """Raise a ConfigError if a state row holds what the program never writes."""
    names = [name for name in _STATE_TYPES if name in has]
    columns: list[sa.ColumnElement[Any]] = [sa.column(name) for name in names]
    for row in connection.execute(sa.select(*columns).select_from(sa.table(_STATE))):
        for name, value in zip(names, row, strict=True):
            if not isinstance(value, _STATE_TYPES[name]):
                raise ConfigError(
                    f"{where}, table {_STATE}: damaged, {name} is {str(value)[:50]!r}", DAMAGED
                )


def load_lock_copy(connection: sa.Connection, where: str) -> tuple[SchemaLock, str | None]:
    """The database's own copy of the lock, and the text of the lock that it replaced."""
    row = connection.execute(sa.select(SCHEMA_LOCK)).first()
    if row is None:
        return {}, None
    return parse_lock(row.schema, f"{where}, table _schema_lock"), row.replaces


def save_lock_file(path: str | Path, lock: SchemaLock) -> None:
    """Write the lock file whole or not at all; raises StorageError."""
    try:
        save_lock(Path(path), lock)
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be written ({error})", "Name another with --schema."
        ) from error


def save_lock_copy(connection: sa.Connection, lock: SchemaLock, now: datetime) -> None:
    """Keep the lock in the database; call it in the transaction that changes the tables."""
    text = dump_lock(lock)
    before = connection.execute(sa.select(SCHEMA_LOCK.c.schema)).scalar()
    if before != text:
        values = {"schema": text, "locked_at": to_text(now), "replaces": before}
        statement = dialect_of(connection).insert_or_update(SCHEMA_LOCK, values)
        connection.execute(statement, {"id": 1, **values})


def record_drift(
    connection: sa.Connection,
    run_id: str,
    drift: Sequence[Drift],
    compared: Collection[str],
    now: datetime,
) -> list[Drift]:
    """Write each difference once while it stands; one that comes back is written again.

    Differences of entities that were not ``compared`` stand. Returns those that are new.
    """
    names = ("entity_name", "column_name", "change", "old_type", "new_type")
    found = {
        (item.entity, item.column, item.change, item.old_type, item.new_type): item
        for item in drift
    }
    columns = [SCHEMA_CHANGES.c[name] for name in ("id", *names)]
    query = sa.select(*columns).where(SCHEMA_CHANGES.c.standing == 1)
    standing = {tuple(key): at for at, *key in connection.execute(query)}
    ended = [at for key, at in standing.items() if key not in found and key[0] in compared]
    told = {"run_id": run_id, "detected_at": to_text(now)}
    new = [
        {**told, **dict(zip(names, key, strict=True)), "severity": item.severity}
        for key, item in found.items()
        if key not in standing
    ]
    if ended:
        end = sa.update(SCHEMA_CHANGES).where(SCHEMA_CHANGES.c.id.in_(ended))
        connection.execute(end.values(standing=0))
    if new:
        connection.execute(sa.insert(SCHEMA_CHANGES), new)
    return [item for key, item in found.items() if key not in standing]
