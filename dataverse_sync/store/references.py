"""Find which records of the filtered tables are linked to, from the tables themselves.

Reachable is what the unfiltered tables point to, and what reachable records
point to in turn. Metadata says which columns point where; without it, columns
are taken by their names. Of a column that may point to several tables a record says which it is;
where it does not, its id is looked for in all of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from dataverse_sync.model import Entity
from dataverse_sync.store.database import Dialect, dialect_of, record_set
from dataverse_sync.store.lookup_types import build_type
from dataverse_sync.store.tables import EntityTable

# Ids in lower case: one record, whatever the case that a link to it is written in.
_LINKED = record_set("_linked", sa.Column("depth", sa.Integer, nullable=False))
_GONE = record_set("_gone")
_ASKED = record_set("_asked")


@dataclass(frozen=True, slots=True)
class Link:
    """A column whose values are ids of a filtered entity."""

    source: str
    column: str
    target: str


def find_links(entities: Iterable[Entity], filtered: Collection[str]) -> list[Link]:
    """Every column of these entities that can point to one of the filtered ones."""
    entities = list(entities)
    return [
        Link(source.name, column, target.name)
        for target in entities
        if target.name in filtered
        for source in entities
        for column in _pointing_columns(source, target)
    ]


def _pointing_columns(source: Entity, target: Entity) -> Iterable[str]:
    columns = [column for column in source.columns if not column.gone]
    if source.source == "metadata" and target.logical_name is not None:
        lookups = [c.name for c in columns if target.logical_name in c.targets]
        same_name = source.is_intersect
    else:
        lookups = [c.name for c in columns if c.name[:1] == "_" and c.name[-6:] == "_value"]
        same_name = True
    yield from lookups
    if same_name and source.key != target.key and source.has(target.key):
        yield target.key


class References:
    """The closure of the links between the configured tables, kept in temporary tables."""

    def __init__(
        self,
        connection: sa.Connection,
        tables: Mapping[str, EntityTable],
        filtered: Collection[str],
    ) -> None:
        self._connection = connection
        self._tables = tables
        links = find_links([table.entity for table in tables.values()], filtered)
        self._roots = [link for link in links if link.source not in filtered]
        self._inner = [link for link in links if link.source in filtered]
        for marks in (_LINKED, _ASKED, _GONE):
            connection.execute(sa.delete(marks))
        # The unfiltered tables do not change any more: their links are found once.
        for source in dict.fromkeys(link.source for link in self._roots):
            self._add(self._root_query(source))

    def reach(self) -> None:
        """Find all that is linked to, from what the filtered tables hold now."""
        self._connection.execute(sa.delete(_LINKED).where(_LINKED.c.depth > 0))
        depth = 0
        while sum(self._add(self._inner_query(link, depth)) for link in self._inner):
            depth += 1

    def list_unasked(self, name: str) -> tuple[Sequence[str], Sequence[str]]:
        """Ids in lower case that are linked to and were not asked for in this run.

        First those that the table of the filtered entity does not have, then those that it has.
        """
        linked = _LINKED.c.record_id
        asked = sa.exists().where(_ASKED.c.entity_name == name, _ASKED.c.record_id == linked)
        wanted = sa.select(linked).where(_LINKED.c.entity_name == name, ~asked).order_by(linked)
        # By the key's own index, so as the service writes ids: in lower case.
        stored = sa.exists().where(self._tables[name].key == linked)
        run = self._connection.execute
        return run(wanted.where(~stored)).scalars().all(), run(wanted.where(stored)).scalars().all()

    def mark_asked(self, name: str, ids: Iterable[str]) -> None:
        """Note that these were asked for in this run; ids as ``list_unasked`` gives them."""
        self._add_ids(_ASKED, name, ids)

    def mark_gone(self, name: str, ids: Iterable[str]) -> None:
        """Note that the service did not return these: they link to nothing any more."""
        self._add_ids(_GONE, name, ids)

    def forget_gone(self, name: str) -> None:
        """Take back ``mark_gone``: the rows stay after all, and link again."""
        self._connection.execute(sa.delete(_GONE).where(_GONE.c.entity_name == name))

    def gone(self, name: str) -> sa.Select[Any]:
        """The keys of rows that the service did not return."""
        key = self._tables[name].key
        return sa.select(key).where(_is_in(_GONE, name, key))

    def unlinked(self, name: str) -> sa.Select[Any]:
        """The keys of rows that nothing reachable links to, by the last ``reach``."""
        key = self._tables[name].key
        return sa.select(key).where(~_is_in(_LINKED, name, key), ~_is_in(_GONE, name, key))

    def _root_query(self, source: str) -> sa.Select[Any]:
        """All links of one table in one pass over it."""
        table = self._tables[source].table
        links = [link for link in self._roots if link.source == source and link.column in table.c]
        counted = (sa.select(sa.literal(at).label("n")) for at in range(len(links)))
        numbers = sa.union_all(*counted).subquery()
        targets = {at: link.target for at, link in enumerate(links)}
        values = {at: self._id_of(link) for at, link in enumerate(links)}
        value = sa.case(values, value=numbers.c.n)
        query = sa.select(sa.case(targets, value=numbers.c.n), value, sa.literal(0))
        every = table.join(numbers, sa.literal(1) == 1)
        return query.select_from(every).where(value.is_not(None))

    def _inner_query(self, link: Link, depth: int) -> sa.Select[Any]:
        """The links through a column of the records that were reached at this depth."""
        table, key = self._tables[link.source].table, self._tables[link.source].key
        value = self._id_of(link)
        is_linked = sa.and_(
            _LINKED.c.entity_name == link.source, _LINKED.c.record_id == sa.func.lower(key)
        )
        return (
            sa.select(sa.literal(link.target), value, sa.literal(depth + 1))
            .select_from(table.join(_LINKED, is_linked))
            .where(_LINKED.c.depth == depth, value.is_not(None), ~_is_in(_GONE, link.source, key))
        )

    def _id_of(self, link: Link) -> sa.ColumnElement[Any]:
        return _id_of(dialect_of(self._connection), self._tables, link)

    def _add(self, query: sa.Select[Any]) -> int:
        statement = dialect_of(self._connection).insert_or_ignore(_LINKED)
        names = ["entity_name", "record_id", "depth"]
        return self._connection.execute(statement.from_select(names, query)).rowcount

    def _add_ids(self, marks: sa.Table, name: str, ids: Iterable[str]) -> None:
        if rows := [{"entity_name": name, "record_id": record_id} for record_id in ids]:
            self._connection.execute(dialect_of(self._connection).insert_or_ignore(marks), rows)


def _id_of(
    dialect: Dialect, tables: Mapping[str, EntityTable], link: Link
) -> sa.ColumnElement[Any]:
    """The id of a link, in lower case; null if a row says that it points to another table."""
    source, target = tables[link.source], tables[link.target].entity.logical_name
    value = sa.func.lower(source.table.c[link.column])
    column = next(one for one in source.columns if one.name == link.column)
    if target is None or len(column.targets) < 2:
        return value
    kind = build_type(dialect, source.entity, column, source.table)
    return sa.case((sa.func.coalesce(sa.func.lower(kind), target) == target, value))


def _is_in(marks: sa.Table, name: str, key: sa.Column[Any]) -> sa.Exists:
    return sa.exists().where(marks.c.entity_name == name, marks.c.record_id == sa.func.lower(key))


def count_dangling(
    connection: sa.Connection,
    tables: Mapping[str, EntityTable],
    filtered: Collection[str],
    name: str,
) -> dict[str, int]:
    """How many different ids point to a filtered entity, and to no row of any synced table.

    By ``table.column``; columns without any are left out.
    """
    links = find_links([table.entity for table in tables.values()], filtered)
    counts = {}
    for link in links:
        if link.target != name or link.column not in tables[link.source].table.c:
            continue
        value = _id_of(dialect_of(connection), tables, link)
        query = sa.select(sa.func.count(value.distinct())).where(value.is_not(None))
        for other in links:
            if (other.source, other.column) == (link.source, link.column):
                keys = sa.select(tables[other.target].key)
                query = query.where(value.not_in(keys))
        if found := connection.execute(query).scalar_one():
            counts[f"{link.source}.{link.column}"] = found
    return counts
