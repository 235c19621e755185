"""The locked schema from its two homes: the file, and the database's copy of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dataverse_sync.config import Config
from dataverse_sync.errors import ConfigError, StorageError
from dataverse_sync.store import database
from dataverse_sync.store import sync_state as states
from dataverse_sync.store import tables as schema_manager
from dataverse_sync.store.sync_state import LockCopy
from dataverse_sync.store.tables import Lock

log = logging.getLogger(__name__)

Tables = Mapping[str, Mapping[str, tuple[str, bool]]]


@dataclass(frozen=True, slots=True)
class Locked:
    """What is locked, and how the tables that are there agree with it."""

    lock: Lock  # of file and database together
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
    filed = schema_manager.load_lock(path)
    copy: LockCopy | None = None
    tables: Tables = {}
    if db_path.exists() and db_path.stat().st_size:
        with database.open_reader(db_path).connect() as connection:
            tables = database.read_tables(connection)
            if states.SCHEMA_LOCK.name in tables:
                copy = states.load_lock_copy(connection, str(db_path))
    copied = copy.lock if copy else {}
    if filed is None or (copy and schema_manager.dump_lock(filed) == copy.replaces):
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


def save_file(config: Config, lock: Lock) -> None:
    """Write the lock file.

    Raises:
        StorageError: Its folder cannot be written.
    """
    path = Path(config.schema_path)
    try:
        schema_manager.save_lock(path, lock)
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be written ({error})", "Name another with --schema."
        ) from error
