"""The views ``<table>_labelled``: a table's columns, and beside each what its value is called.

A choice column gets ``<column>_label``, a lookup ``<lookup>_name`` and ``<lookup>_type``: beside
``_primarycontactid_value`` stand ``primarycontactid_name``, and ``primarycontactid_type``, the
logical name of the table that it points to. They are looked up when the view is read, so a view
is never behind its tables. Views made here are known by their comment; a view of somebody else's
is never touched.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from dataverse_sync.errors import EntityError
from dataverse_sync.store.choices import CHOICES
from dataverse_sync.store.database import Dialect, dialect_of
from dataverse_sync.store.lookup_types import build_type
from dataverse_sync.store.tables import EntityTable

_SEPARATOR = "; "  # between the labels of a multi-select choice, as Dataverse writes them
_MARK = "labels of {table}, made by dataverse_sync"
_MARKED = re.compile(_MARK.format(table=r"(\w+)"))
_LOOKUP = re.compile(r"_(.+)_value")


class LookupTarget(NamedTuple):
    """A table that a lookup may point to, and its column that names a record."""

    table: EntityTable
    name_column: str


def guess_name_column(table: EntityTable) -> str | None:
    """The column that names a record, by its own name: for tables without metadata."""
    texts = [column.name for column in table.columns if column.type == "TEXT"]
    for name in ("fullname", "name"):
        if name in texts:
            return name
    named = [name for name in texts if name.endswith("name") and not name.startswith("_")]
    return min(named, key=lambda name: (not name.endswith("_name"), len(name), name), default=None)


def _find_free(name: str, taken: set[str]) -> str:
    """The name, with a number if it is taken; ``taken`` is in lower case, and gets it."""
    number, free = 2, name
    while free.lower() in taken:
        free, number = f"{name}_{number}", number + 1
    taken.add(free.lower())
    return free


def build_view(
    connection: sa.Connection,
    table: EntityTable,
    choices: Collection[str],
    lookups: Mapping[str, Sequence[LookupTarget]],
    language: int | None,
) -> str | None:
    """The SELECT of a view, as text; None if there is nothing to show beside the columns.

    ``choices`` are the columns that have labels, shown in ``language`` or, if that lacks one,
    in another; ``lookups`` are columns with the tables that are asked for the id, in order.
    """
    dialect = dialect_of(connection)
    row = table.table.alias("this")
    texts = {column.name for column in table.columns if column.type == "TEXT"}
    taken = {column.name.lower() for column in table.table.c}
    pointing = {column.name: column for column in table.columns if column.targets}
    shown: list[sa.ColumnElement[Any]] = []
    for column in row.c:
        name = column.name
        shown.append(column)
        if name in choices:
            if name in texts:  # "2,3,8"
                label = _labels_of(dialect, table.name, name, column, language)
            else:
                label = _label_of(table.name, name, column, language)
            shown.append(label.label(_find_free(f"{name}_label", taken)))
        lookup = _LOOKUP.fullmatch(name)
        stem = lookup[1] if lookup else name
        if targets := lookups.get(name):
            shown.append(_name_of(column, targets).label(_find_free(f"{stem}_name", taken)))
        if about := pointing.get(name):
            kind = build_type(dialect, table.entity, about, row)
            shown.append(kind.label(_find_free(f"{stem}_type", taken)))
    if len(shown) == len(row.c):
        return None
    query = sa.select(*shown).select_from(row)
    return str(query.compile(connection, compile_kwargs={"literal_binds": True}))


def _label_of(entity: str, column: str, value: sa.ColumnElement[Any], language: int | None) -> Any:
    """One label of one value: in the language wanted, else in that with the lowest number."""
    found = CHOICES.alias("choice")
    return (
        sa.select(found.c.label)
        .where(found.c.entity_name == entity, found.c.column_name == column, found.c.value == value)
        .order_by(found.c.language != language, found.c.language)
        .limit(1)
        .correlate_except(found)
        .scalar_subquery()
    )


def _labels_of(
    dialect: Dialect, entity: str, column: str, text: sa.ColumnElement[Any], language: int | None
) -> Any:
    """The labels of the values in a text such as ``2,3,8``, in their order."""
    part = dialect.each_in_list(text)
    label = _label_of(entity, column, part.c.value, language)
    shown = sa.func.coalesce(label, part.c.value).label("label")
    query = sa.select(shown).select_from(part).order_by(part.c.key).correlate_except(part)
    ordered = query.subquery("parts")
    joined = sa.select(dialect.join_texts(ordered.c.label, _SEPARATOR)).select_from(ordered)
    return joined.correlate_except(ordered).scalar_subquery()


def _name_of(value: sa.ColumnElement[Any], targets: Sequence[LookupTarget]) -> Any:
    """What the first table that has the id calls the record."""
    names = []
    for table, name_column in targets:
        other = table.table.alias("other")
        name = sa.select(other.c[name_column]).where(other.c[table.entity.key] == value)
        names.append(name.correlate_except(other).scalar_subquery())
    return names[0] if len(names) == 1 else sa.func.coalesce(*names)


# The views of a database


def _list_views(connection: sa.Connection) -> dict[str, str]:
    """The views that were made here: name → table."""
    comments = dialect_of(connection).read_view_comments(connection)
    marks = ((name, _MARKED.fullmatch(comment)) for name, comment in comments.items())
    return {name: mark[1] for name, mark in marks if mark}


def find_view(connection: sa.Connection, table: str) -> str | None:
    """The name of the view of a table that was made here."""
    views = _list_views(connection)
    return next((view for view, owner in views.items() if owner == table), None)


def replace_view(
    connection: sa.Connection, table: str, query: str | None, reserved: Collection[str]
) -> str | None:
    """Drop the view of a table, and make it anew from its SELECT, if there is one.

    ``reserved`` are names that no view may take: tables that are yet to be made. Returns the
    view's name; if the database refuses it, say for its number of columns, that is an
    EntityError, and the old one stays.
    """
    dialect = dialect_of(connection)
    try:
        with connection.begin_nested():
            for view, owner in _list_views(connection).items():
                if owner == table:
                    _drop(connection, view)
            if query is None:
                return None
            taken = {name.lower() for name in (*reserved, *dialect.list_names(connection))}
            view = _find_free(f"{table}_labelled", taken)
            dialect.create_view(connection, view, query, _MARK.format(table=table))
            _try(connection, view)
            return view
    except DBAPIError as error:
        raise EntityError(f"{table}: its view cannot be made ({error.orig})") from error


def drop_broken(connection: sa.Connection) -> list[str]:
    """Drop the views that a change of the tables has broken; returns their names.

    A column that is gone breaks each view that shows it or takes names from it.
    """
    dropped = []
    for view in _list_views(connection):
        try:
            with connection.begin_nested():
                _try(connection, view)
        except DBAPIError:
            _drop(connection, view)
            dropped.append(view)
    return dropped


def _drop(connection: sa.Connection, view: str) -> None:
    connection.exec_driver_sql(f"DROP VIEW {connection.dialect.identifier_preparer.quote(view)}")


def _try(connection: sa.Connection, view: str) -> None:
    """Read no row of a view: SQLite looks into it only then."""
    name = connection.dialect.identifier_preparer.quote(view)
    connection.exec_driver_sql(f"SELECT * FROM {name} LIMIT 0").close()  # noqa: S608  quoted
