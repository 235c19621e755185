"""Find which records of the filtered tables are linked to, from the tables themselves.

Reachable is what the unfiltered tables point to, and what reachable records
point to in turn. Metadata says which columns point where; without it, columns
are taken by their names.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Exists,
    Integer,
    Select,
    Table,
    and_,
    case,
    delete,
    exists,
    func,
    literal,
    select,
    union_all,
)

from dataverse_sync.model import Entity
from dataverse_sync.store.database import dialect_of, record_set
from dataverse_sync.store.tables import EntityTable

# Ids in lower case: one record, whatever the case that a link to it is written in.
_LINKED = record_set("_linked", Column("depth", Integer, nullable=False))
_GONE = record_set("_gone")
_ASKED = record_set("_asked")


@dataclass(frozen=True, slots=True)
class Link:
    """A column whose values are ids of a filtered entity."""

    source: str
    column: str
    target: str


def find_links(entities: Iterable[Entity], filtered: Collection[str]) -> list[Link]:
    """Every column of these entities that can point to one of the filtered ones.

    Args:
        entities: All that are configured and locked; no others link.
        filtered: The names of the entities to find links to.
    """
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
    """The closure of the links, kept in temporary tables of the writing connection.

    Args:
        connection: The one that writes.
        tables: Each configured entity that has a table.
        filtered: The names of the filtered ones.
    """

    def __init__(
        self,
        connection: Connection,
        tables: Mapping[str, EntityTable],
        filtered: Collection[str],
    ) -> None:
        self._connection = connection
        self._tables = tables
        links = find_links([table.entity for table in tables.values()], filtered)
        self._roots = [link for link in links if link.source not in filtered]
        self._inner = [link for link in links if link.source in filtered]
        for marks in (_LINKED, _ASKED, _GONE):
            connection.execute(delete(marks))
        # The unfiltered tables do not change any more: their links are found once.
        for source in dict.fromkeys(link.source for link in self._roots):
            self._add(self._root_query(source))

    def reach(self) -> None:
        """Find all that is linked to, from what the filtered tables hold now."""
        self._connection.execute(delete(_LINKED).where(_LINKED.c.depth > 0))
        depth = 0
        while sum(self._add(self._inner_query(link, depth)) for link in self._inner):
            depth += 1

    def list_unasked(self, name: str) -> tuple[Sequence[str], Sequence[str]]:
        """Ids of a filtered entity that are linked to and were not asked for in this run.

        Returns:
            Those that its table does not have, and those that it has; in lower case.
        """
        wanted = select(_LINKED.c.record_id).where(
            _LINKED.c.entity_name == name,
            ~exists().where(
                _ASKED.c.entity_name == name, _ASKED.c.record_id == _LINKED.c.record_id
            ),
        )
        # By the key's own index, so as the service writes ids: in lower case.
        stored = exists().where(self._key(name) == _LINKED.c.record_id)
        run = self._connection.execute
        new = run(wanted.where(~stored).order_by(_LINKED.c.record_id)).scalars().all()
        return new, run(wanted.where(stored).order_by(_LINKED.c.record_id)).scalars().all()

    def mark_asked(self, name: str, ids: Iterable[str]) -> None:
        """Note that these were asked for in this run; ids as ``list_unasked`` gives them."""
        _add_ids(self._connection, _ASKED, name, ids)

    def mark_gone(self, name: str, ids: Iterable[str]) -> None:
        """Note that the service did not return these: they link to nothing any more."""
        _add_ids(self._connection, _GONE, name, ids)

    def forget_gone(self, name: str) -> None:
        """Take back ``mark_gone``: the rows stay after all, and link again."""
        self._connection.execute(delete(_GONE).where(_GONE.c.entity_name == name))

    def gone(self, name: str) -> Select[Any]:
        """The keys of rows that the service did not return."""
        key = self._key(name)
        return select(key).where(_is_in(_GONE, name, key))

    def unlinked(self, name: str) -> Select[Any]:
        """The keys of rows that nothing reachable links to, by the last ``reach``."""
        key = self._key(name)
        return select(key).where(~_is_in(_LINKED, name, key), ~_is_in(_GONE, name, key))

    def _key(self, name: str) -> Column[str]:
        table = self._tables[name].table
        return table.c[self._tables[name].entity.key]

    def _root_query(self, source: str) -> Select[Any]:
        """All links of one table in one pass over it."""
        table = self._tables[source].table
        links = [link for link in self._roots if link.source == source and link.column in table.c]
        counted = (select(literal(at).label("n")) for at in range(len(links)))
        numbers = union_all(*counted).subquery()
        target = case({at: link.target for at, link in enumerate(links)}, value=numbers.c.n)
        value = case(
            {at: func.lower(table.c[link.column]) for at, link in enumerate(links)},
            value=numbers.c.n,
        )
        return (
            select(target, value, literal(0))
            .select_from(table.join(numbers, literal(1) == 1))
            .where(value.is_not(None))
        )

    def _inner_query(self, link: Link, depth: int) -> Select[Any]:
        table = self._tables[link.source].table
        key = self._key(link.source)
        value = table.c[link.column]
        return (
            select(literal(link.target), func.lower(value), literal(depth + 1))
            .select_from(
                table.join(
                    _LINKED,
                    and_(
                        _LINKED.c.entity_name == link.source,
                        _LINKED.c.record_id == func.lower(key),
                    ),
                )
            )
            .where(
                _LINKED.c.depth == depth,
                value.is_not(None),
                ~_is_in(_GONE, link.source, key),
            )
        )

    def _add(self, query: Select[Any]) -> int:
        statement = dialect_of(self._connection).insert_or_ignore(_LINKED)
        names = ["entity_name", "record_id", "depth"]
        return self._connection.execute(statement.from_select(names, query)).rowcount


def _is_in(marks: Table, name: str, key: Column[str]) -> Exists:
    return exists().where(marks.c.entity_name == name, marks.c.record_id == func.lower(key))


def _add_ids(connection: Connection, marks: Table, name: str, ids: Iterable[str]) -> None:
    rows = [{"entity_name": name, "record_id": record_id} for record_id in ids]
    if rows:
        connection.execute(dialect_of(connection).insert_or_ignore(marks), rows)


def count_dangling(
    connection: Connection,
    tables: Mapping[str, EntityTable],
    filtered: Collection[str],
    name: str,
) -> dict[str, int]:
    """Ids that point to a filtered entity and to no row of any synced table they may point to.

    Returns:
        ``table.column`` → how many different ids; columns without any are left out.
    """
    links = find_links([table.entity for table in tables.values()], filtered)
    counts = {}
    for link in links:
        if link.target != name or link.column not in tables[link.source].table.c:
            continue
        value = tables[link.source].table.c[link.column]
        others = [
            other.target
            for other in links
            if (other.source, other.column) == (link.source, link.column)
        ]
        query = select(func.count(value.distinct())).where(value.is_not(None))
        for target in others:
            key = tables[target].table.c[tables[target].entity.key]
            query = query.where(func.lower(value).not_in(select(key)))
        if found := connection.execute(query).scalar_one():
            counts[f"{link.source}.{link.column}"] = found
    return counts
