"""The SQLite file: opened with care, written a page at a time.

One connection writes, from one thread. Readers (``status``, a BI tool) are
never blocked, since the file is in WAL mode.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    MetaData,
    create_engine,
    event,
)
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from dataverse_sync.errors import ConfigError, StorageError

DB_VERSION = 1  # PRAGMA user_version: raised when the program's own tables change
PAGE_SIZE = 16384  # bytes; saves 5 to 36 % of a first sync against SQLite's 4,096
CACHE_KIB = 128 * 1024  # SQLite's 2 MB spill the indexes of a large table over and over
SMALL_CACHE_KIB = 64 * 1024  # beside pages that are large themselves
BUSY_TIMEOUT_S = 60.0  # another writer is waited for this long
_MAGIC = b"SQLite format 3\0"

OWN_TABLES = MetaData()  # the program's own tables, each defined where it is used
TEMPORARY_TABLES = MetaData()  # those that live as long as the writing connection

# Process-wide, and the same for everyone: sqlite3 looks for an adapter for every
# None and bool it binds; finding one in C makes sparse wide rows 1.6 times faster.
_pass_none: Any = {}.get  # a callable in C that gives None for None
sqlite3.register_adapter(type(None), _pass_none)
sqlite3.register_adapter(bool, int)


# Opening


def check_file(path: Path, *, to_write: bool = True) -> None:
    """See that a database can be opened or made there, without writing anything.

    Args:
        path: The SQLite file.
        to_write: Whether it is to be written too.

    Raises:
        ConfigError: It is a folder, no database, damaged, read-only, or of a newer
            version of this program; or its folder is missing.
    """
    hint = "Name the database with --db or SQLITE_DB_PATH."
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder, not a database file", hint)
    folder = path.parent
    if not folder.is_dir():
        raise ConfigError(
            f"{path}: there is no folder {folder}", "Make it, or " + hint[0].lower() + hint[1:]
        )
    if not path.exists():
        if to_write and not os.access(folder, os.W_OK):
            raise ConfigError(f"{path}: the folder cannot be written", hint)
        return
    if to_write and not os.access(path, os.R_OK | os.W_OK):
        raise ConfigError(f"{path}: the file cannot be read and written", "Check its permissions.")
    try:
        with path.open("rb") as file:
            head = file.read(len(_MAGIC))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error})", hint) from error
    if not head:
        return
    if head != _MAGIC:
        raise ConfigError(f"{path}: is no SQLite database", hint)
    try:
        with open_reader(path).connect() as connection:
            version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
            connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar_one()
    except DBAPIError as error:
        raise ConfigError(f"{path}: cannot be opened ({error.orig})", hint) from error
    if version > DB_VERSION:
        raise ConfigError(
            f"{path}: made by a newer version of this program (database version {version}, "
            f"known here {DB_VERSION})",
            "Update dataverse_sync.",
        )


def open_engine(path: Path) -> Engine:
    """An engine whose transactions are SQLite's own, from BEGIN to COMMIT."""
    with suppress(FileExistsError):
        # It holds the environment's data: readable by its owner only, where there are modes.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    engine = create_engine(
        URL.create("sqlite+pysqlite", database=str(path)),
        connect_args={"timeout": BUSY_TIMEOUT_S, "isolation_level": None},
        poolclass=NullPool,
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _: object) -> None:
        connection.execute(f"PRAGMA page_size={PAGE_SIZE}")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute(f"PRAGMA cache_size=-{CACHE_KIB}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    @event.listens_for(engine, "handle_error")
    def keep(context: ExceptionContext) -> None:
        # SQLAlchemy would open another connection, which waits for what this one has locked.
        if isinstance(context.original_exception, KeyboardInterrupt):
            context.is_disconnect = False

    return engine


def open_writer(path: Path) -> Connection:
    """The connection that writes.

    Raises:
        ConfigError: The file cannot be made.
        StorageError: No space for what SQLite needs, or a lock that does not end.
    """
    try:
        return open_engine(path).connect()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be opened ({error})") from error
    except DBAPIError as error:
        raise storage_error(str(path), error) from error


def open_reader(path: Path, *, lasting: bool = False) -> Engine:
    """An engine that can only read, and creates nothing.

    Args:
        path: The SQLite file.
        lasting: Whether it reads for longer than a moment, so that a writer may come.
    """

    def connect() -> sqlite3.Connection:
        uri = path.absolute().as_uri()
        journal = path.with_name(path.name + "-journal")
        if journal.exists():
            # Where there is no write-ahead log, a writer that was killed leaves this. The first
            # to come takes back what is half-written, and has to be allowed to write.
            with closing(sqlite3.connect(uri + "?mode=rw", uri=True, timeout=BUSY_TIMEOUT_S)) as it:
                it.execute("SELECT count(*) FROM sqlite_master").fetchone()
        uri += "?mode=ro"
        written = journal.exists() or path.with_name(path.name + "-wal").exists()
        if not lasting and not written:
            # Nobody writes. Any other way of reading a file in WAL mode leaves files beside it.
            uri += "&immutable=1"
        return sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)

    return create_engine("sqlite+pysqlite://", creator=connect, poolclass=NullPool)


def read_query(path: Path, sql: str) -> tuple[list[str], Sequence[Sequence[Any]]]:
    """The names of the columns and the rows that a query of a person's returns."""
    with open_reader(path).connect() as connection:
        result = connection.exec_driver_sql(sql)
        return list(result.keys()), result.all()


def leave_room(connection: Connection) -> None:
    """Make do with a smaller cache from here on, for pages that take much memory themselves."""
    connection.exec_driver_sql(f"PRAGMA cache_size=-{SMALL_CACHE_KIB}")


def journal_mode(connection: Connection) -> str:
    return str(connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()).lower()


@contextmanager
def transaction(connection: Connection) -> Iterator[Connection]:
    """One transaction; SQLite's complaints become errors that a user can act on.

    Raises:
        StorageError: No space, a lock that does not end, a damaged or read-only file.
    """
    try:
        with connection.begin():
            yield connection
    except (DBAPIError, sqlite3.Error) as error:  # the latter where the driver's cursor is read
        raise storage_error(connection.engine.url.database or "the database", error) from error


def storage_error(path: str, error: DBAPIError | sqlite3.Error) -> StorageError:
    """What a DBAPI error means to whoever runs the job."""
    text = str(error.orig if isinstance(error, DBAPIError) else error)
    if "full" in text:
        hint = "Free some space on its disk and run again; what was committed is kept."
    elif "locked" in text or "busy" in text:
        hint = f"Another program has held it for {BUSY_TIMEOUT_S:.0f} s; close it and run again."
    elif "malformed" in text or "not a database" in text:
        hint = "The file is damaged: restore it from a backup, or move it away and sync again."
    else:
        hint = "Check the disk and the permissions of the file and its folder."
    return StorageError(f"{path}: cannot be written ({text})", hint)


def prepare_own_tables(connection: Connection) -> None:
    OWN_TABLES.create_all(connection)
    TEMPORARY_TABLES.create_all(connection)
    connection.exec_driver_sql(f"PRAGMA user_version = {DB_VERSION:d}")


def read_tables(connection: Connection) -> Mapping[str, Mapping[str, tuple[str, bool]]]:
    """Each table's columns: the declared type, and whether it is in the key."""
    tables: dict[str, dict[str, tuple[str, bool]]] = {}
    for table, name, type_, pk in connection.exec_driver_sql(
        "SELECT m.name, c.name, c.type, c.pk FROM sqlite_master m, pragma_table_info(m.name) c "
        "WHERE m.type = 'table'"
    ):
        tables.setdefault(table, {})[name] = (type_, bool(pk))
    return tables


# Rows
