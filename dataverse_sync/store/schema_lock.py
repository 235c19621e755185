"""The schema lock in its two homes, the file and the database, and what differed from it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import Column, Connection, Integer, Table, Text, insert, select, update
from sqlalchemy.exc import DBAPIError

from dataverse_sync.errors import ConfigError, StorageError
from dataverse_sync.model import Drift
from dataverse_sync.moments import to_text
from dataverse_sync.schema.lock import SchemaLock, dump_lock, load_lock, parse_lock, save_lock
from dataverse_sync.store.database import OWN_TABLES, Target, dialect_of, read_tables
from dataverse_sync.store.tables import StoredTables, find_misfits

SCHEMA_LOCK = Table(
    "_schema_lock",
    OWN_TABLES,
    Column("id", Integer, primary_key=True),
    Column("schema", Text, nullable=False),
    Column("locked_at", Text, nullable=False),
    Column("replaces", Text),  # the lock before it: a file that still says this is behind
)
SCHEMA_CHANGES = Table(
    "_schema_changes",
    OWN_TABLES,
    Column("id", Integer, primary_key=True),
    Column("run_id", Text, nullable=False),
    Column("entity_name", Text, nullable=False),
    Column("column_name", Text),
    Column("change", Text, nullable=False),
    Column("severity", Text, nullable=False),
    Column("old_type", Text),
    Column("new_type", Text),
    Column("detected_at", Text, nullable=False),
    Column("standing", Integer, nullable=False, default=1),
)


@dataclass(frozen=True, slots=True)
class LockedSchema:
    """What is locked, and how the tables of the database fit it."""

    lock: SchemaLock  # of file and database together
    tables: StoredTables
    misfits: tuple[str, ...]
    is_file_current: bool


def load_schema(target: Target, schema_path: str | Path, *, must_fit: bool = True) -> LockedSchema:
    """Read the file and the database's copy; writes nothing.

    The copy is right if the file lacks an entity that the copy has, or is the very lock that
    the copy replaced (a run was killed between the two).

    Raises:
        ConfigError: One of them is damaged; or, if it ``must_fit``, a table does not have
            what is locked.
    """
    filed = load_lock(Path(schema_path))
    tables: StoredTables = {}
    copied: SchemaLock = {}
    replaced = None
    if target.size():
        with target.open_reader() as connection:
            tables = read_tables(connection)
            if SCHEMA_LOCK.name in tables:
                copied, replaced = load_lock_copy(connection, target.name)
    is_behind = filed is None or dump_lock(filed) == replaced
    lock = copied if is_behind else {**copied, **(filed or {})}
    misfits = tuple(find_misfits(lock, tables))
    if must_fit and misfits:
        raise ConfigError(
            f"{schema_path} does not fit the database {target.name}: {'; '.join(misfits)}",
            "Name the schema that this database was made from with --schema, or bring the tables "
            "up to it: python -m dataverse_sync schema accept",
        )
    return LockedSchema(lock, tables, misfits, is_file_current=filed == lock)


def load_lock_copy(connection: Connection, where: str) -> tuple[SchemaLock, str | None]:
    """The database's own copy of the lock, and the text of the lock that it replaced.

    Raises:
        ConfigError: The copy is damaged, or the database itself.
    """
    try:
        row = connection.execute(select(SCHEMA_LOCK)).first()
    except DBAPIError as error:
        raise ConfigError(
            f"{where}: cannot be read ({error.orig})",
            "Restore it from a backup, or move it away and sync again.",
        ) from error
    if row is None:
        return {}, None
    return parse_lock(row.schema, f"{where}, table _schema_lock"), row.replaces


def save_lock_file(path: str | Path, lock: SchemaLock) -> None:
    """Write the lock file whole or not at all.

    Raises:
        StorageError: Its folder cannot be written.
    """
    try:
        save_lock(Path(path), lock)
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be written ({error})", "Name another with --schema."
        ) from error


def save_lock_copy(connection: Connection, lock: SchemaLock, now: datetime) -> None:
    """Keep the lock in the database; call it in the transaction that changes the tables."""
    text = dump_lock(lock)
    before = connection.execute(select(SCHEMA_LOCK.c.schema)).scalar()
    if before != text:
        values = {"schema": text, "locked_at": to_text(now), "replaces": before}
        statement = dialect_of(connection).insert_or_update(SCHEMA_LOCK, values)
        connection.execute(statement, {"id": 1, **values})


def record_drift(
    connection: Connection,
    run_id: str,
    drift: Sequence[Drift],
    compared: Collection[str],
    now: datetime,
) -> None:
    """Write each difference once while it stands; one that comes back is written again.

    Args:
        connection: In a transaction.
        run_id: The run that found them.
        drift: What differs now.
        compared: The entities that were compared; differences of others stand.
        now: When.
    """
    found = {
        (item.entity, item.column, item.change, item.old_type, item.new_type): item
        for item in drift
    }
    query = select(SCHEMA_CHANGES).where(SCHEMA_CHANGES.c.standing == 1)
    standing = {
        (row.entity_name, row.column_name, row.change, row.old_type, row.new_type): row.id
        for row in connection.execute(query)
    }
    ended = [at for key, at in standing.items() if key not in found and key[0] in compared]
    new = [
        {
            "run_id": run_id,
            "entity_name": item.entity,
            "column_name": item.column,
            "change": item.change,
            "severity": item.severity,
            "old_type": item.old_type,
            "new_type": item.new_type,
            "detected_at": to_text(now),
        }
        for key, item in found.items()
        if key not in standing
    ]
    if ended:
        end = update(SCHEMA_CHANGES).where(SCHEMA_CHANGES.c.id.in_(ended))
        connection.execute(end.values(standing=0))
    if new:
        connection.execute(insert(SCHEMA_CHANGES), new)
