"""The SQLite file: opened with care, one writer, readers that never wait for it.

Does what ``database.Target`` asks for. The file is in WAL mode, so readers (``status``,
a BI tool) are not blocked by a sync. SQLite's own SQL is in ``sqlite_sql``.
"""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from dataverse_sync.errors import DAMAGED, ConfigError, StorageError
from dataverse_sync.files import find_existing_folder
from dataverse_sync.store import run_lock
from dataverse_sync.store.sqlite_sql import DB_VERSION

PAGE_SIZE = 16384  # bytes; saves 5 to 36 % of a first sync against SQLite's 4,096
CACHE_KIB = 128 * 1024  # SQLite's 2 MB spill the indexes of a large table over and over
BUSY_TIMEOUT_S = 60.0  # another writer is waited for this long
_DRIVER = "sqlite+pysqlite"
_MAGIC = b"SQLite format 3\0"
_HINT = "Name the database with --db or SQLITE_DB_PATH."
_DAMAGE = re.compile(r"malformed|not a database|decode|UTF-8|unsupported file format|corrupt", re.I)
# What reading a file raises. SQLite puts names from a damaged file into its messages, which
# sqlite3 then cannot decode.
READ_ERRORS = (DBAPIError, sqlite3.Error, UnicodeDecodeError)

# Process-wide, and the same for everyone: sqlite3 looks for an adapter for every
# None and bool it binds; finding one in C makes sparse wide rows 1.6 times faster.
_pass_none: Any = {}.get  # a callable in C that gives None for None
sqlite3.register_adapter(type(None), _pass_none)
sqlite3.register_adapter(bool, int)


@dataclass(frozen=True, slots=True)
class SqliteFile:
    """A place for tables: a file that a first sync makes."""

    path: Path

    @property
    def name(self) -> str:
        return str(self.path)

    def exists(self) -> bool:
        return self.path.exists()

    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def check(self, *, to_write: bool = True) -> None:
        self._check_permissions(to_write)
        if not self.size():
            return
        try:
            with self.path.open("rb") as file:
                head = file.read(len(_MAGIC))
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be read ({error})", _HINT) from error
        if head != _MAGIC:
            raise ConfigError(f"{self.path}: is not a SQLite database", _HINT)
        try:
            with self.open_reader() as connection:
                version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
                connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar_one()
        except READ_ERRORS as error:
            reason = describe(error)
            hint = DAMAGED if _DAMAGE.search(reason) else _HINT
            raise ConfigError(f"{self.path}: cannot be opened ({reason})", hint) from error
        if version > DB_VERSION:
            raise ConfigError(
                f"{self.path}: made by a newer version of this program (database version "
                f"{version}, known here {DB_VERSION})",
                "Update dataverse_sync.",
            )

    def _check_permissions(self, to_write: bool) -> None:
        path, folder = self.path, self.path.parent
        if path.is_dir():
            raise ConfigError(f"{path}: is a folder, not a database file", _HINT)
        existing = find_existing_folder(folder)
        if not existing.is_dir():
            raise ConfigError(f"{path}: {existing} is a file, not a folder", _HINT)
        if to_write and not path.exists() and not os.access(existing, os.W_OK):
            if existing == folder.absolute():
                raise ConfigError(f"{path}: the folder cannot be written", _HINT)
            raise ConfigError(f"{path}: the folder cannot be made in {existing}", _HINT)
        if to_write and path.exists() and not os.access(path, os.R_OK | os.W_OK):
            raise ConfigError(
                f"{path}: the file cannot be read and written", "Check its permissions."
            )

    def open_writer(self) -> Connection:
        try:
            return open_engine(self.path).connect()
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be opened ({error})", _HINT) from error
        except READ_ERRORS as error:
            raise self.explain(error) from error

    def open_reader(self, *, lasting: bool = False) -> Connection:
        url = URL.create(_DRIVER, database=self.name)
        opened = partial(_open_to_read, self.path, lasting)
        return create_engine(url, creator=opened, poolclass=NullPool).connect()

    def hold(self, since: datetime) -> AbstractContextManager[None]:
        return run_lock.hold(self.path, since)

    def is_held(self) -> bool:
        return run_lock.is_held(self.path)

    def describe_holder(self) -> str:
        return run_lock.describe_holder(self.path)

    def check_integrity(self, connection: Connection) -> str:
        try:
            found = connection.exec_driver_sql("PRAGMA integrity_check(5)").scalars().all()
        except READ_ERRORS as error:
            return describe(error)
        finally:
            connection.rollback()
        return "; ".join(str(line) for line in found)

    def blocks_readers(self, connection: Connection) -> bool:
        mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()
        return str(mode).lower() != "wal"  # as on a network drive

    def explain(self, error: Exception) -> StorageError:
        text = describe(error)
        if "full" in text:
            hint = "Free some space on its disk and run again; what was committed is kept."
        elif "locked" in text or "busy" in text:
            hint = (
                f"Another program has held it for {BUSY_TIMEOUT_S:.0f} s; close it and run again."
            )
        elif _DAMAGE.search(text):
            hint = DAMAGED
        else:
            hint = "Check the disk and the permissions of the file and its folder."
        return StorageError(f"{self.path}: cannot be written ({text})", hint)


def describe(error: Exception) -> str:
    """What SQLite said, or that it could not be understood."""
    if isinstance(error, UnicodeDecodeError):
        return "malformed: a name in it is not UTF-8"
    return str(error.orig if isinstance(error, DBAPIError) else error)


def open_engine(path: Path) -> Engine:
    """An engine that writes; its transactions are SQLite's own, from BEGIN to COMMIT."""
    with suppress(FileExistsError):
        # It holds the environment's data: readable by its owner only, where there are modes.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    engine = create_engine(
        URL.create(_DRIVER, database=str(path)),
        connect_args={"timeout": BUSY_TIMEOUT_S, "isolation_level": None},
        poolclass=NullPool,
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _: object) -> None:
        connection.execute(f"PRAGMA page_size={PAGE_SIZE}")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
        connection.execute("PRAGMA foreign_keys=OFF")  # a SQLite may be built with ON

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    @event.listens_for(engine, "handle_error")
    def keep(context: ExceptionContext) -> None:
        # SQLAlchemy would open another connection, which waits for what this one has locked.
        if isinstance(context.original_exception, KeyboardInterrupt):
            context.is_disconnect = False

    return engine


def _open_to_read(path: Path, lasting: bool) -> sqlite3.Connection:
    uri = path.absolute().as_uri()
    real = path.resolve()  # SQLite keeps its other files beside the file that a link leads to
    journal = real.with_name(real.name + "-journal")
    if journal.exists():
        # Left by a writer that was killed where write-ahead logging does not work. The first
        # to come takes back what is half-written, and has to be allowed to write.
        with closing(_connect(uri + "?mode=rw")) as mending:
            mending.execute("SELECT count(*) FROM sqlite_master").fetchone()
    uri += "?mode=ro"
    written = journal.exists() or real.with_name(real.name + "-wal").exists()
    if not lasting and not written:
        # Nobody writes. Any other way of reading a file in WAL mode leaves files beside it.
        uri += "&immutable=1"
    return _connect(uri)


def _connect(uri: str) -> sqlite3.Connection:
    return sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)
