"""The foreign keys and the indexes of a table, and when they are made.

A foreign key is for the tools that read the file: nothing enforces it, and no table has to be
loaded before another. Indexes are made once the table is loaded, in less time than they would
cost during the load.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from itertools import chain, count

import sqlalchemy as sa

from dataverse_sync.model import Column, Entity
from dataverse_sync.store.database import dialect_of
from dataverse_sync.store.sync_state import load_states
from dataverse_sync.store.tables import EntityTable, ForeignKey
from dataverse_sync.store.upsert import count_rows

# How the columns of a junction table end: a table that is linked to itself has two of a name.
_SIDES = ("id", "idone", "idtwo")
_DATES = ("modifiedon", "createdon")
_LARGE = 50_000  # rows; a smaller table is sorted in no time, and the cache is worth more


def _find_targets(table: EntityTable, entities: Iterable[Entity]) -> Mapping[str, Entity]:
    """The columns of a table that can point to one table only, which is among these entities.

    By metadata alone: what is guessed from names is not declared.
    """
    by_name: dict[str | None, Entity] = {}
    by_key: dict[str, list[Entity]] = {}
    for entity in entities:
        if entity.logical_name is not None:
            by_name[entity.logical_name] = entity
            by_key.setdefault(entity.key, []).append(entity)
    targets = {}
    for column in _list_current(table):
        if table.entity.is_intersect and not column.targets:
            pointed = by_key.get(column.name.removesuffix("one").removesuffix("two"), [])
        else:
            pointed = [by_name[name] for name in column.targets if name in by_name]
        if len(pointed) == 1 and len(column.targets) <= 1:
            targets[column.name] = pointed[0]
    return targets


def _list_current(table: EntityTable) -> list[Column]:
    """The columns that Dataverse has still, without the key."""
    return [column for column in table.columns[1:] if not column.gone]


def with_keys(
    table: EntityTable, entities: Iterable[Entity], more: Iterable[ForeignKey] = ()
) -> sa.Table:
    """The table as it is made: with foreign keys to these entities, and those of ``more`` that fit.

    Of ``more`` those fit whose columns are there still, and do not point to a target already.
    """
    made = table.table.to_metadata(sa.MetaData())
    targets = _find_targets(table, entities)
    keys = [ForeignKey((name,), to.name, (to.key,)) for name, to in targets.items()]
    declared = {key.columns for key in keys}
    keys += [
        key for key in more if key.columns not in declared and {*key.columns} <= {*made.c.keys()}
    ]
    for key in keys:
        # A table by this name and no other: the true one need not be made yet, nor be known.
        target = sa.Table(key.target, sa.MetaData(), *(sa.Column(name) for name in key.to))
        made.append_constraint(
            sa.ForeignKeyConstraint(
                key.columns, [*target.c], onupdate=key.on_update, ondelete=key.on_delete
            )
        )
    return made


def create_tables(
    connection: sa.Connection, tables: Sequence[EntityTable], entities: Collection[Entity]
) -> None:
    """Make tables with their foreign keys to these entities.

    They get their indexes once they are loaded; at once where that will not be told again.
    """
    states = load_states(connection, [table.name for table in tables]) if tables else {}
    for table in tables:
        with_keys(table, entities).create(connection)
        if states[table.name].has_completed:  # dropped by hand since
            make_indexes(connection, table, entities)


def make_indexes(
    connection: sa.Connection, table: EntityTable, entities: Iterable[Entity]
) -> Sequence[str]:
    """Index the dates, and what points to one of these entities; returns the names of the indexes.

    Of a junction table both sides are indexed, whatever is configured. A column that an index
    begins with already is left as it is.
    """
    dialect = dialect_of(connection)
    dates = [name for name in _DATES if name in table.table.c]
    wanted = dict.fromkeys([*dates, *_find_targets(table, entities)])
    if table.entity.is_intersect:
        wanted |= dict.fromkeys(c.name for c in _list_current(table) if c.name.endswith(_SIDES))
    indexed = dialect.list_indexed(connection, table.name)
    columns = [name for name in wanted if name not in indexed]
    if not columns:
        return []
    taken = {name.lower() for name in dialect.list_names(connection)}
    holder = sa.Table(table.name, sa.MetaData(), *map(sa.Column, columns))
    indexes = []
    for column in holder.c:
        base = f"idx_{table.name}_{column.name}"
        numbered = (f"{base}_{number}" for number in count(2))
        name = next(name for name in chain([base], numbered) if name.lower() not in taken)
        taken.add(name.lower())
        indexes.append(sa.Index(name, column))
    is_large = count_rows(connection, table) > _LARGE
    with dialect.sorting_beside(connection) if is_large else nullcontext():
        for index in indexes:
            index.create(connection)
    return [str(index.name) for index in indexes]
