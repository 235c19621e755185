"""Write ``$metadata``: the CSDL document that names every set, type, key and property."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from xml.sax.saxutils import quoteattr

from ..data.columns import LOOKUPS, Column
from ..data.tables import Table
from .annotations import navigation_name

_HEAD = (
    '<?xml version="1.0" encoding="utf-8"?>'
    '<edmx:Edmx Version="4.0" xmlns:edmx="http://docs.oasis-open.org/odata/ns/edmx">'
    "<edmx:DataServices>"
    '<Schema Namespace="Microsoft.Dynamics.CRM" Alias="mscrm"'
    ' xmlns="http://docs.oasis-open.org/odata/ns/edm">'
    '<EntityType Name="crmbaseentity" Abstract="true" />'
)
_TAIL = "</Schema></edmx:DataServices></edmx:Edmx>"


def csdl(tables: Iterable[Table]) -> bytes:
    tables = sorted(tables, key=lambda table: table.logical_name)
    keys = {table.logical_name: table.key for table in tables}
    parts = [_HEAD]
    for table in tables:
        parts.extend(_entity_type(table, keys))
    parts.append('<EntityContainer Name="System">')
    for table in tables:
        type_name = f"Microsoft.Dynamics.CRM.{table.logical_name}"
        names = f"Name={quoteattr(table.entity_set)} EntityType={quoteattr(type_name)}"
        parts.append(f"<EntitySet {names} />")
    parts.append("</EntityContainer>")
    return "".join([*parts, _TAIL]).encode()


def _entity_type(table: Table, keys: dict[str, str]) -> Iterator[str]:
    yield f'<EntityType Name={quoteattr(table.logical_name)} BaseType="mscrm.crmbaseentity">'
    yield f"<Key><PropertyRef Name={quoteattr(table.key)} /></Key>"
    for member in table.members.values():
        unicode_ = ' Unicode="false"' if member.edm == "Edm.String" else ""
        yield f"<Property Name={quoteattr(member.name)} Type={quoteattr(member.edm)}{unicode_} />"
    for column in table.all_columns:
        if column.type in LOOKUPS:
            yield from _navigations(column, keys)
    yield "</EntityType>"


def _navigations(column: Column, keys: dict[str, str]) -> Iterator[str]:
    done = set()
    for target in column.targets:
        name = navigation_name(column, target)
        if target not in keys or name in done:
            continue
        done.add(name)
        yield (
            f"<NavigationProperty Name={quoteattr(name)} Type={quoteattr(f'mscrm.{target}')}"
            ' Nullable="false">'
            f"<ReferentialConstraint Property={quoteattr(f'_{column.name}_value')}"
            f" ReferencedProperty={quoteattr(keys[target])} /></NavigationProperty>"
        )
