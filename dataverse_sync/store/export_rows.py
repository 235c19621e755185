"""Read the rows of tables for an export: all of them as of one moment, a few megabytes at a time.

Labels, names and types of lookups are those of the labelled view; if there is none yet, those of
the SELECT that it would be made from, with the column that names a record guessed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from dataverse_sync.store import choices
from dataverse_sync.store.choices import CHOICES
from dataverse_sync.store.database import Target, dialect_of, reading, reading_table
from dataverse_sync.store.dictionary import DICTIONARY, ColumnEntry, load_dictionary
from dataverse_sync.store.environment import ENVIRONMENT, load_environment
from dataverse_sync.store.labelled_views import (
    LookupTarget,
    build_view,
    find_view,
    guess_name_column,
)
from dataverse_sync.store.references import find_links
from dataverse_sync.store.tables import EntityTable

BATCH_BYTES = 8 * 1024 * 1024  # of JSON, as characters
BATCH_ROWS = 20_000
_FETCHED = 16  # rows at once: a record may have megabytes

Tables = Mapping[str, EntityTable]
Row = Sequence[Any]  # json_response, the texts beside, sync_time, valid_from


@dataclass(frozen=True, slots=True)
class ExportSource:
    """How the rows of a table are read, and what is read beside its records."""

    query: str
    rows: int
    beside: Mapping[str, Sequence[str]]  # column → names of the texts beside it


@contextmanager
def open_snapshot(target: Target) -> Iterator[sa.Connection]:
    """A connection that reads the database as it is now, whatever is written meanwhile."""
    with reading(target), target.open_reader(lasting=True) as connection:
        connection.exec_driver_sql("BEGIN")
        dialect_of(connection).list_names(connection)  # the first read sets the moment
        yield connection


def load_columns(connection: sa.Connection) -> Mapping[str, list[ColumnEntry]]:
    """The data dictionary; empty if no sync has made it."""
    if DICTIONARY.name in dialect_of(connection).list_names(connection):
        return load_dictionary(connection)
    return {}


def find_source(
    connection: sa.Connection, tables: Tables, name: str, *, raw: bool = False
) -> ExportSource:
    """How to read a table, with the labels and names beside its columns unless ``raw``."""
    table = tables[name]
    with reading_table(name):
        rows = connection.execute(sa.select(sa.func.count()).select_from(table.table)).scalar_one()
        place = quoted = connection.dialect.identifier_preparer.quote(name)
        beside: Mapping[str, Sequence[str]] = {}
        if not raw:
            place, beside = _find_labelled(connection, tables, table) or (quoted, {})
    texts = [text for names in beside.values() for text in names]
    quote = connection.dialect.identifier_preparer.quote
    columns = ", ".join(map(quote, ("json_response", *texts, "sync_time", "valid_from")))
    return ExportSource(f"SELECT {columns} FROM {place}", rows, beside)  # noqa: S608  quoted


def iter_batches(
    connection: sa.Connection, name: str, source: ExportSource
) -> Iterator[tuple[Sequence[Row], int]]:
    """All rows of a table in batches, each with the size of its JSON."""
    batch: list[Row] = []
    size = 0
    with reading_table(name):
        for rows in connection.exec_driver_sql(source.query).partitions(_FETCHED):
            batch += rows
            size += sum(len(row[0]) for row in rows)
            if size >= BATCH_BYTES or len(batch) >= BATCH_ROWS:
                yield batch, size
                batch, size = [], 0
    if batch:
        yield batch, size


def _find_labelled(
    connection: sa.Connection, tables: Tables, table: EntityTable
) -> tuple[str, Mapping[str, Sequence[str]]] | None:
    """The labelled view of a table, or the SELECT of one, and what it shows beside each column."""
    quote = connection.dialect.identifier_preparer.quote
    view = find_view(connection, table.name)
    places = [quote(view)] if view is not None else []
    if query := _build_query(connection, tables, table):
        places.append(f"({query})")
    for place in places:
        try:
            shown = list(connection.exec_driver_sql(f"SELECT * FROM {place} LIMIT 0").keys())  # noqa: S608
        except DBAPIError:  # a table that it takes names from is gone
            continue
        if {column.name for column in table.table.c} <= set(shown):  # made since the last change
            return place, _find_beside(table, shown)
    return None


def _find_beside(table: EntityTable, shown: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """The names of what stands after each column of the table."""
    beside: dict[str, list[str]] = {}
    column = ""
    for name in shown:
        if name in table.table.c:
            column = name
        else:
            beside.setdefault(column, []).append(name)
    return beside


def _build_query(connection: sa.Connection, tables: Tables, table: EntityTable) -> str | None:
    labelled: Sequence[str] = ()
    made = dialect_of(connection).list_names(connection)
    if CHOICES.name in made:
        known = choices.load_columns(connection, table.name)
        labelled = [column for column in known if column in table.table.c]
    environment = load_environment(connection) if ENVIRONMENT.name in made else None
    named = {name: column for name, it in tables.items() if (column := guess_name_column(it))}
    lookups: dict[str, list[LookupTarget]] = {}
    for link in find_links([it.entity for it in tables.values()], named):
        if link.source == table.name and link.column in table.table.c:
            found = LookupTarget(tables[link.target], named[link.target])
            lookups.setdefault(link.column, []).append(found)
    return build_view(
        connection, table, labelled, lookups, environment.language if environment else None
    )
