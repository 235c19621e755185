"""The locked schema from its two homes: the file, and the database's copy of it."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Column, Connection, Integer, Table, Text, insert, select, update
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError

from dataverse_sync.config import Config
from dataverse_sync.errors import ConfigError, StorageError
from dataverse_sync.model import Drift
from dataverse_sync.moments import to_text
from dataverse_sync.schema.lock import SchemaLock, dump_lock, load_lock, parse_lock, save_lock
from dataverse_sync.store import database
from dataverse_sync.store import tables as schema_manager
from dataverse_sync.store.database import OWN_TABLES

log = logging.getLogger(__name__)

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


Tables = Mapping[str, Mapping[str, tuple[str, bool]]]


@dataclass(frozen=True, slots=True)
class Locked:
    """What is locked, and how the tables that are there agree with it."""

    lock: SchemaLock  # of file and database together
    tables: Tables  # each table's columns: declared type, and whether it is the key
    misfits: tuple[str, ...]
    is_file_current: bool


def load_locks(config: Config) -> Locked:
    """Read both, without writing.

    Where the file lacks an entity that the database knows, or is the very lock that
    the database's copy replaced (a run was killed between the two), the copy is right.

    Raises:
        ConfigError: One of them is damaged.
    """
    path, db_path = Path(config.schema_path), config.db_path
    filed = load_lock(path)
    copy: LockCopy | None = None
    tables: Tables = {}
    if db_path.exists() and db_path.stat().st_size:
        with database.open_reader(db_path).connect() as connection:
            tables = database.read_tables(connection)
            if SCHEMA_LOCK.name in tables:
                copy = load_lock_copy(connection, str(db_path))
    copied = copy.lock if copy else {}
    if filed is None or (copy and dump_lock(filed) == copy.replaces):
        lock = copied
    else:
        lock = {**copied, **filed}
    return Locked(
        lock=lock,
        tables=tables,
        misfits=tuple(schema_manager.find_misfits(lock, tables)),
        is_file_current=filed == lock,
    )


def load_fitting_lock(config: Config) -> Locked:
    """Read both, and see that they fit the tables.

    Raises:
        ConfigError: One is damaged, or a table does not have what is locked.
    """
    locked = load_locks(config)
    if locked.misfits:
        raise ConfigError(
            f"{config.schema_path} does not fit the database {config.db_path}: "
            + "; ".join(locked.misfits),
            "Name the schema that this database was made from with --schema, or bring the tables "
            "up to it: python -m dataverse_sync schema accept",
        )
    return locked


def save_file(config: Config, lock: SchemaLock) -> None:
    """Write the lock file.

    Raises:
        StorageError: Its folder cannot be written.
    """
    path = Path(config.schema_path)
    try:
        save_lock(path, lock)
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be written ({error})", "Name another with --schema."
        ) from error


@dataclass(frozen=True, slots=True)
class LockCopy:
    """The lock that the tables were made from, and the text of the one before it."""

    lock: SchemaLock
    replaces: str | None


def load_lock_copy(connection: Connection, where: str) -> LockCopy | None:
    """The database's own copy of the lock; None in a database without one.

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
        return None
    return LockCopy(parse_lock(row.schema, f"{where}, table _schema_lock"), row.replaces)


def save_lock_copy(connection: Connection, lock: SchemaLock, now: datetime) -> None:
    """Keep the lock in the database; call it in the transaction that changes the tables."""
    text = dump_lock(lock)
    before = connection.execute(select(SCHEMA_LOCK.c.schema)).scalar()
    if before == text:
        return
    values = {"id": 1, "schema": text, "locked_at": to_text(now), "replaces": before}
    statement = sqlite.insert(SCHEMA_LOCK).values(values)
    connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=values))


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
        compared: The entities that were looked at; differences of others stand.
        now: When.
    """
    standing = {
        (row.entity_name, row.column_name, row.change, row.old_type, row.new_type): row.id
        for row in connection.execute(select(SCHEMA_CHANGES).where(SCHEMA_CHANGES.c.standing == 1))
    }
    seen: Mapping[tuple[Any, ...], Drift] = {
        (item.entity, item.column, item.change, item.old_type, item.new_type): item
        for item in drift
    }
    for key, row_id in standing.items():
        if key not in seen and key[0] in compared:
            ended = update(SCHEMA_CHANGES).where(SCHEMA_CHANGES.c.id == row_id)
            connection.execute(ended.values(standing=0))
    for key, item in seen.items():
        if key not in standing:
            connection.execute(
                insert(SCHEMA_CHANGES).values(
                    run_id=run_id,
                    entity_name=item.entity,
                    column_name=item.column,
                    change=item.change,
                    severity=item.severity,
                    old_type=item.old_type,
                    new_type=item.new_type,
                    detected_at=to_text(now),
                )
            )
