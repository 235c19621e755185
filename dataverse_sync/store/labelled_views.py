"""The views ``<table>_labelled``: a table's columns, and beside each what its value is called.

A choice column gets ``<column>_label``, a lookup ``<lookup>_name``: beside
``_primarycontactid_value`` stands ``primarycontactid_name``. Both look their text up
when the view is read, so a view is never behind its tables. Views made here are known
by their comment; a view of somebody else's is never touched.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, func, select
from sqlalchemy.exc import DBAPIError

from dataverse_sync.errors import EntityError
from dataverse_sync.store.choices import CHOICES
from dataverse_sync.store.database import Dialect, dialect_of
from dataverse_sync.store.tables import EntityTable

SEPARATOR = "; "  # between the labels of a multi-select choice, as Dataverse writes them
_MARK = "labels of {table}, made by dataverse_sync"
_MARKED = re.compile(_MARK.format(table=r"(\w+)"))


@dataclass(frozen=True, slots=True)
class LookupTarget:
    """A table that a lookup may point to, and its column that names a record."""

    table: EntityTable
    name_column: str


# What a view is made of


def guess_name_column(table: EntityTable) -> str | None:
    """The column that names a record, where the metadata does not say: by its name."""
    texts = [column.name for column in table.columns if column.type == "TEXT"]
    for name in ("fullname", "name"):
        if name in texts:
            return name
    named = [name for name in texts if name.endswith("name") and not name.startswith("_")]
    return min(named, key=lambda name: (not name.endswith("_name"), len(name), name), default=None)


def name_of_label(column: str) -> str:
    return f"{column}_label"


def name_of_lookup(column: str) -> str:
    """``_primarycontactid_value`` → ``primarycontactid_name``."""
    if column.startswith("_") and column.endswith("_value"):
        column = column[1 : -len("_value")]
    return f"{column}_name"


def find_free(name: str, taken: Collection[str]) -> str:
    """The name, with a number where it is taken; ``taken`` in lower case."""
    number, free = 2, name
    while free.lower() in taken:
        free, number = f"{name}_{number}", number + 1
    return free


def build_view(
    connection: Connection,
    table: EntityTable,
    choices: Collection[str],
    lookups: Mapping[str, Sequence[LookupTarget]],
    language: int | None,
) -> str | None:
    """The SELECT of a view, as text; None if there is nothing to show beside the columns.

    Args:
        connection: Whose dialect it is written in.
        table: The table that the view stands beside.
        choices: Its columns that have labels.
        lookups: Its columns that point to synced tables, each with those tables in the
            order in which they are asked for the id.
        language: The language of the labels; another one stands in where it lacks one.
    """
    dialect = dialect_of(connection)
    row = table.table.alias("this")
    kinds = {column.name: column.type for column in table.columns}
    taken = {column.name.lower() for column in table.table.c}
    shown: list[ColumnElement[Any]] = []

    def add(name: str, text: Any) -> None:
        free = find_free(name, taken)
        taken.add(free.lower())
        shown.append(text.label(free))

    for column in row.c:
        shown.append(column)
        if column.name in choices:
            if kinds[column.name] == "TEXT":  # "2,3,8"
                label = _labels_of(dialect, table.name, column, language)
            else:
                label = _label_of(table.name, column.name, column, language)
            add(name_of_label(column.name), label)
        if targets := lookups.get(column.name):
            add(name_of_lookup(column.name), _name_of(column, targets))
    if len(shown) == len(row.c):
        return None
    query = select(*shown).select_from(row)
    return str(query.compile(connection, compile_kwargs={"literal_binds": True}))


def _label_of(entity: str, column: str, value: ColumnElement[Any], language: int | None) -> Any:
    """One label of one value: in the language wanted, else in that with the lowest number."""
    found = CHOICES.alias("choice")
    return (
        select(found.c.label)
        .where(
            found.c.entity_name == entity,
            found.c.column_name == column,
            found.c.value == value,
        )
        .order_by(found.c.language != language, found.c.language)
        .limit(1)
        .correlate_except(found)
        .scalar_subquery()
    )


def _labels_of(dialect: Dialect, entity: str, column: Column[Any], language: int | None) -> Any:
    """The labels of the values in a text such as ``2,3,8``, in their order."""
    part = dialect.each_in_list(column)
    label = func.coalesce(_label_of(entity, column.name, part.c.value, language), part.c.value)
    ordered = (
        select(label.label("label")).select_from(part).order_by(part.c.key).correlate_except(part)
    ).subquery("parts")
    return (
        select(dialect.join_texts(ordered.c.label, SEPARATOR))
        .select_from(ordered)
        .correlate_except(ordered)
        .scalar_subquery()
    )


def _name_of(value: ColumnElement[Any], targets: Sequence[LookupTarget]) -> Any:
    """What the first table that has the id calls the record."""
    names = []
    for target in targets:
        other = target.table.table.alias("other")
        names.append(
            select(other.c[target.name_column])
            .where(other.c[target.table.entity.key] == value)
            .correlate_except(other)
            .scalar_subquery()
        )
    return names[0] if len(names) == 1 else func.coalesce(*names)


# The views of a database


def list_views(connection: Connection) -> dict[str, str]:
    """The views that were made here: name → table."""
    comments = dialect_of(connection).read_view_comments(connection)
    marks = ((name, _MARKED.fullmatch(comment)) for name, comment in comments.items())
    return {name: mark[1] for name, mark in marks if mark}


def replace_view(
    connection: Connection, table: str, query: str | None, reserved: Collection[str]
) -> str | None:
    """Drop the view of a table, and make it again; returns its name.

    Args:
        connection: In a transaction.
        table: The table that the view stands beside.
        query: The SELECT of the view; None: no view is made.
        reserved: Names that no view may take: tables that are yet to be made.

    Raises:
        EntityError: The database refuses the view, say for its number of columns; the old
            one stays.
    """
    quote = connection.dialect.identifier_preparer.quote
    dialect = dialect_of(connection)
    try:
        with connection.begin_nested():
            for view, owner in list_views(connection).items():
                if owner == table:
                    connection.exec_driver_sql(f"DROP VIEW {quote(view)}")
            if query is None:
                return None
            taken = {name.lower() for name in (*reserved, *dialect.list_names(connection))}
            view = find_free(f"{table}_labelled", taken)
            dialect.create_view(connection, view, query, _MARK.format(table=table))
            _try(connection, view)
            return view
    except DBAPIError as error:
        raise EntityError(f"{table}: its view cannot be made ({error.orig})") from error


def drop_broken(connection: Connection) -> list[str]:
    """Drop the views that a change of the tables has broken; returns their names.

    A column that is gone breaks each view that shows it or takes names from it.
    """
    quote = connection.dialect.identifier_preparer.quote
    dropped = []
    for view in list_views(connection):
        try:
            with connection.begin_nested():
                _try(connection, view)
        except DBAPIError:
            connection.exec_driver_sql(f"DROP VIEW {quote(view)}")
            dropped.append(view)
    return dropped


def _try(connection: Connection, view: str) -> None:
    """Read no row of a view: SQLite looks into it only then."""
    name = connection.dialect.identifier_preparer.quote(view)
    connection.exec_driver_sql(f"SELECT * FROM {name} LIMIT 0").close()  # noqa: S608  quoted
