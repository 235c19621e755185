"""Tables: their names, their columns, what the service allows on them.

``Table`` is a description and never changes; a column added to a running emulator makes a
new ``Table``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property

from .columns import Column, Member


@dataclass(frozen=True)
class Table:
    """One Dataverse table: ``account``, read as the entity set ``accounts``."""

    logical_name: str
    entity_set: str
    key: str
    columns: Sequence[Column]
    _: KW_ONLY
    intersect: bool = False
    change_tracking: bool = False
    createdon: bool = True
    modifiedon: bool = True
    versionnumber: bool = True
    readable: bool = True  # False: a plain GET of the set is refused, as with some link tables
    privilege_missing: bool = False
    orderable: bool = True  # False: $orderby by the key is refused
    not_orderable: tuple[str, ...] = ()  # further members that $orderby refuses
    in_metadata: bool = True  # False: EntityDefinitions does not know it
    primary_name: str | None = None
    table_type: str = "Standard"  # or Virtual, Elastic
    data_provider: str | None = None  # the id of the provider of a virtual or elastic table

    @cached_property
    def all_columns(self) -> tuple[Column, ...]:
        """The key, the table's own columns, and the system's."""
        named = {column.name for column in self.columns}
        system = [
            (self.key, "Uniqueidentifier", True),
            ("createdon", "DateTime", self.createdon),
            ("modifiedon", "DateTime", self.modifiedon),
            ("versionnumber", "BigInt", self.versionnumber),
        ]
        key, *rest = (
            Column(name, type_) for name, type_, wanted in system if wanted and name not in named
        )
        return (key, *self.columns, *rest)

    @cached_property
    def members(self) -> dict[str, Member]:
        """The properties of a record, by JSON name."""
        return {member.name: member for column in self.all_columns for member in column.members}

    @cached_property
    def name_column(self) -> str | None:
        """The primary name: what a lookup to this table shows."""
        if self.primary_name is not None:
            return self.primary_name
        return next((column.name for column in self.columns if column.type == "String"), None)

    def with_column(self, column: Column) -> Table:
        return replace(self, columns=(*self.columns, column))

    def without_column(self, name: str) -> Table:
        return replace(self, columns=tuple(c for c in self.columns if c.name != name))

    def with_type(self, name: str, type_: str) -> Table:
        columns = (
            Column(name, type_, targets=column.targets) if column.name == name else column
            for column in self.columns
        )
        return replace(self, columns=tuple(columns))


# The labels of every choice, as rows.
STRINGMAPS = Table(
    "stringmap",
    "stringmaps",
    "stringmapid",
    (
        Column("objecttypecode", "EntityName"),
        *(Column(name, "String") for name in ("attributename", "value")),
        *(Column(name, "Integer") for name in ("attributevalue", "langid", "displayorder")),
    ),
    createdon=False,
    modifiedon=False,
    primary_name="value",
)
