"""A place for tables, and SQL on it: what every kind of database must do, and which one it is.

A ``Target`` is the place: found, checked, opened, locked. A ``Dialect`` is what differs in SQL.
Both are called once a page or once for 500 rows, never once a row. SQLite does them in
``sqlite`` and ``sqlite_sql``; no other module knows which database it works on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import msgspec
import sqlalchemy as sa
from sqlalchemy.schema import CreateColumn

from dataverse_sync.errors import DAMAGED, ConfigError, EntityError, StorageError
from dataverse_sync.model import Counts
from dataverse_sync.store import sqlite_sql
from dataverse_sync.store.rows import SqlRow
from dataverse_sync.store.sqlite import READ_ERRORS, SqliteFile, describe
from dataverse_sync.store.tables import EntityTable, ForeignKey, StoredTables

OWN_TABLES = sa.MetaData()  # the program's own tables, each defined where it is used
TEMPORARY_TABLES = sa.MetaData()  # those that live as long as the writing connection


class Target(Protocol):
    """A place for tables."""

    @property
    def name(self) -> str: ...  # as people are shown it
    def exists(self) -> bool: ...
    def size(self) -> int: ...  # bytes; 0 before the first sync

    # See that it can be opened or made, without writing; raises ConfigError.
    def check(self, *, to_write: bool = True) -> None: ...

    # The connection that writes makes what does not exist; raises ConfigError or StorageError.
    def open_writer(self) -> sa.Connection: ...

    # A reader makes nothing. Is it to last longer than a moment, so that a writer may come?
    def open_reader(self, *, lasting: bool = False) -> sa.Connection: ...

    # The run lock; raises LockedError if another run holds it.
    def hold(self, since: datetime) -> AbstractContextManager[None]: ...
    def is_held(self) -> bool: ...
    def describe_holder(self) -> str: ...

    # The database's own check of all it holds: "ok", or what is wrong.
    def check_integrity(self, connection: sa.Connection) -> str: ...
    def blocks_readers(self, connection: sa.Connection) -> bool: ...

    # What an error of the driver means to whoever runs the job.
    def explain(self, error: Exception) -> StorageError: ...


class Dialect(Protocol):
    """What differs in SQL. A connection is in a transaction, rows are 1 to 500."""

    # Write the rows that are new or differ in json_response, and count all exactly. Fresh: the
    # table was empty when its read began, so inserting comes first, and looking only if it fails.
    # A row that differs in annotations alone is unchanged; its text is replaced if that is asked.
    def upsert_rows(
        self,
        connection: sa.Connection,
        table: EntityTable,
        rows: Sequence[SqlRow],
        *,
        fresh: bool,
        annotates: bool = False,
    ) -> Counts: ...

    # Write rows, whatever is stored under their keys.
    def rewrite_rows(
        self, connection: sa.Connection, table: EntityTable, rows: Sequence[SqlRow]
    ) -> None: ...

    # The keys under which json_response is this very record; no key comes twice.
    def find_unchanged(
        self,
        connection: sa.Connection,
        table: EntityTable,
        keys: Sequence[str],
        records: Sequence[msgspec.Raw],
    ) -> set[str]: ...

    # An insert that leaves out what the table has, or changes these columns of it.
    def insert_or_ignore(self, table: sa.Table) -> sa.Insert: ...
    def insert_or_update(
        self, table: sa.Table, columns: Iterable[str], computed: Mapping[str, Any] | None = None
    ) -> sa.Insert: ...

    # Tables of key and value: the items of a JSON array, the numbers in a text such as 2,3,8.
    def each_of(self, array: sa.ColumnElement[Any]) -> sa.TableValuedAlias: ...
    def each_in_list(self, text: sa.ColumnElement[Any]) -> sa.TableValuedAlias: ...
    # The text under a name in a JSON object; null if it is not there. No name holds a quote.
    def find_member(self, document: sa.ColumnElement[Any], name: str) -> sa.ColumnElement[Any]: ...
    def join_texts(self, text: sa.ColumnElement[Any], separator: str) -> sa.ColumnElement[Any]: ...

    # What there is: tables with their columns; every name that is taken; views with a comment.
    def read_tables(self, connection: sa.Connection) -> StoredTables: ...
    def list_names(self, connection: sa.Connection) -> Sequence[str]: ...
    def read_view_comments(self, connection: sa.Connection) -> Mapping[str, str]: ...
    def create_view(
        self, connection: sa.Connection, name: str, query: str, comment: str
    ) -> None: ...

    # Of a table: its foreign keys, those left out whose target is not told; the columns that a
    # whole index begins with.
    def read_foreign_keys(
        self, connection: sa.Connection, table: str, tables: StoredTables
    ) -> Sequence[ForeignKey]: ...
    def list_indexed(self, connection: sa.Connection, table: str) -> set[str]: ...

    # While indexes of a large table are made.
    def sorting_beside(self, connection: sa.Connection) -> AbstractContextManager[None]: ...

    # Rename a table and drop its indexes and triggers; views of it keep to the name that it had.
    # Returns the names of what was dropped, each with the statement that makes it again.
    def move_aside(
        self, connection: sa.Connection, table: sa.Table, name: str
    ) -> Mapping[str, str]: ...

    # These columns of all rows of a table that is called so now, in the order that is read most
    # quickly; the rows already read may be changed meanwhile.
    def iter_rows(
        self,
        connection: sa.Connection,
        table: sa.Table,
        name: str,
        columns: Sequence[str],
        size: int,
    ) -> Iterator[Sequence[Sequence[Any]]]: ...

    # Note the version of the program's own tables.
    def mark_version(self, connection: sa.Connection) -> None: ...

    # Make do with less memory from here on, for pages that take much themselves.
    def leave_room(self, connection: sa.Connection) -> None: ...

    # Read text that is not UTF-8, in a damaged row, with U+FFFD in its place from here on.
    def tolerate_damage(self, connection: sa.Connection) -> None: ...


_DIALECTS: Mapping[str, Dialect] = {"sqlite": sqlite_sql}


def open_target(place: str | Path) -> Target:
    """The place that ``--db`` names."""
    return SqliteFile(Path(place))


def dialect_of(connection: sa.Connection) -> Dialect:
    return _DIALECTS[connection.dialect.name]


@contextmanager
def transaction(connection: sa.Connection) -> Iterator[sa.Connection]:
    """One transaction; an error of the database becomes a ``StorageError`` with a way out."""
    try:
        with connection.begin():
            yield connection
    except READ_ERRORS as error:
        raise open_target(str(connection.engine.url.database)).explain(error) from error


@contextmanager
def reading(target: Target) -> Iterator[sa.Connection]:
    """A connection that reads for a moment; a damaged file is a ``ConfigError``."""
    try:
        with target.open_reader() as connection:
            yield connection
    except READ_ERRORS as error:
        raise ConfigError(f"{target.name}: cannot be read ({describe(error)})", DAMAGED) from error


@contextmanager
def reading_table(name: str) -> Iterator[None]:
    """Read a table of an entity; a damaged one is an ``EntityError``."""
    try:
        yield
    except READ_ERRORS as error:
        raise EntityError(f"{name}: cannot be read ({describe(error)})", DAMAGED) from error


def prepare_own_tables(connection: sa.Connection) -> None:
    OWN_TABLES.create_all(connection)
    for table in OWN_TABLES.sorted_tables:
        add_missing_columns(connection, table)
    TEMPORARY_TABLES.create_all(connection)
    dialect_of(connection).mark_version(connection)


def add_missing_columns(connection: sa.Connection, table: sa.Table) -> None:
    """Add what a database of an older version does not have; its rows hold null there.

    Of foreign keys, those of one column come with it.
    """
    stored = connection.execute(sa.select(sa.text("*")).select_from(table).limit(0)).keys()
    quote = connection.dialect.identifier_preparer.quote
    for column in table.c:
        if column.name not in stored:
            definition = str(CreateColumn(column).compile(connection))
            for key in column.foreign_keys:
                to = key.column
                definition += f" REFERENCES {quote(to.table.name)} ({quote(to.name)})"
            connection.exec_driver_sql(f"ALTER TABLE {quote(table.name)} ADD COLUMN {definition}")


def record_set(name: str, *more: sa.Column[Any]) -> sa.Table:
    """Define a temporary table of records, each once, with more columns."""
    return sa.Table(
        name,
        TEMPORARY_TABLES,
        sa.Column("entity_name", sa.Text, nullable=False),
        sa.Column("record_id", sa.Text, nullable=False),
        *more,
        sa.PrimaryKeyConstraint("entity_name", "record_id"),
        prefixes=["TEMPORARY"],
        **sqlite_sql.CLUSTERED,
    )


def read_query(place: str | Path, sql: str) -> tuple[list[str], Sequence[Sequence[Any]]]:
    """The names of the columns and the rows that a query of a person's returns."""
    with open_target(place).open_reader() as connection:
        result = connection.exec_driver_sql(sql)
        return list(result.keys()), result.all()
