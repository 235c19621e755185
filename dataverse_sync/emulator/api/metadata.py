"""Answer ``EntityDefinitions``: one answer, never paged, with its own small query language.

https://learn.microsoft.com/power-apps/developer/data-platform/webapi/query-metadata-web-api
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from odata_query import ast

from ..data.tables import Table
from .answers import (
    Answer,
    ServiceError,
    bad_request,
    json_answer,
    missing_privilege,
    unknown_property,
    unknown_segment,
)
from .definitions import (
    Definition,
    attribute_definitions,
    entity_definition,
    relationship_definitions,
)
from .filters import column_name, flatten, parse_filter
from .query import Query, check_options, split_call, split_outside
from .request import Backend

_ATTRIBUTES = re.compile(
    r"EntityDefinitions\(LogicalName='(?P<name>[^']*)'\)/Attributes"
    r"(?:/Microsoft\.Dynamics\.CRM\.(?P<cast>\w+))?"
)
_ENTITY = "EntityMetadata"
_ATTRIBUTE = "AttributeMetadata"
_ONLY_BY_CAST = ("Targets", "OptionSet", "Format", "DateTimeBehavior")


def answer_metadata(backend: Backend, path: str, query: Query, base: str) -> Answer:
    if not backend.control.metadata_readable:
        raise missing_privilege("Entity")
    check_options(query, ("$select", "$filter", "$expand"))
    tables = [table for table in backend.store.specs if table.in_metadata]
    if path == "EntityDefinitions":
        context, value = path, _entities(tables, query)
    else:
        match = _ATTRIBUTES.fullmatch(path)
        if match is None:
            raise unknown_segment(path)
        context = path.replace("LogicalName=", "")
        value = _attributes(tables, match["name"], match["cast"], query)
    context = f"{base}$metadata#{context}{_listed(query)}"
    return json_answer({"@odata.context": context, "value": value})


def _entities(tables: Sequence[Table], query: Query) -> list[Definition]:
    tree = _parse_filter(query)
    found = [(entity_definition(table), table) for table in tables]
    return [
        _selected(definition, query, _ENTITY) | _expanded(table, tables, query.get("$expand"))
        for definition, table in found
        if _holds(tree, definition)
    ]


def _expanded(table: Table, tables: Sequence[Table], expand: str | None) -> Definition:
    keys = {each.logical_name: each.key for each in tables}
    sources: dict[str, tuple[Callable[[], list[Definition]], str]] = {
        "Attributes": (lambda: attribute_definitions(table), _ATTRIBUTE),
        "ManyToOneRelationships": (
            lambda: relationship_definitions(table, keys),
            "OneToManyRelationshipMetadata",
        ),
    }
    expanded = {}
    for part in split_outside(expand or "", ","):
        name, options = split_call(part)
        if name not in sources:
            raise unknown_property(name, _ENTITY)
        check_options(Query(options), ("$select", "$filter"))
        source, type_name = sources[name]
        expanded[name] = _shown(source(), Query(options), type_name)
    return expanded


def _attributes(
    tables: Sequence[Table], name: str, cast: str | None, query: Query
) -> list[Definition]:
    """The attributes of a table; with a cast those of one type, with what only that type has."""
    table = next((table for table in tables if table.logical_name == name), None)
    if table is None:
        raise ServiceError(
            404, "0x80060888", f"Could not find an entity with name {name} and metadata id."
        )
    attributes = attribute_definitions(table)
    if cast is None:
        if query.get("$expand"):
            raise unknown_property(str(query.get("$expand")), _ATTRIBUTE)
        return _shown(attributes, query, _ATTRIBUTE)
    type_name, tree = f"#Microsoft.Dynamics.CRM.{cast}", _parse_filter(query)
    return [
        _cast_attribute(attribute, cast, query)
        for attribute in attributes
        if attribute["@odata.type"] == type_name and _holds(tree, attribute)
    ]


def _cast_attribute(attribute: Definition, cast: str, query: Query) -> Definition:
    options = attribute.pop("OptionSet", None)
    del attribute["@odata.type"]
    row = _selected(attribute, query, cast)
    for part in split_outside(query.get("$expand") or "", ","):
        name, inner = split_call(part)
        if name not in {"OptionSet", "GlobalOptionSet"} or options is None:
            raise unknown_property(name, cast)
        local = name == "OptionSet"
        row[name] = _selected(options, Query(inner), "OptionSetMetadata") if local else None
    return row


def _shown(definitions: list[Definition], query: Query, type_name: str) -> list[Definition]:
    tree = _parse_filter(query)
    kept = [definition for definition in definitions if _holds(tree, definition)]
    if type_name == _ATTRIBUTE:
        hidden = _ONLY_BY_CAST if query.select else ("OptionSet",)
        kept = [{n: v for n, v in each.items() if n not in hidden} for each in kept]
    return [_selected(definition, query, type_name) for definition in kept]


def _selected(definition: Definition, query: Query, type_name: str) -> Definition:
    names = query.select
    if names is None:
        return definition
    for name in names:
        if name not in definition:
            raise unknown_property(name, type_name)
    kept = {"@odata.type", "MetadataId", *names}
    return {name: value for name, value in definition.items() if name in kept}


def _listed(query: Query) -> str:
    select = query.get("$select")
    expand = [split_call(part) for part in split_outside(query.get("$expand") or "", ",")]
    parts = [*([select] if select else []), *(f"{n}({o.get('$select', '')})" for n, o in expand)]
    return f"({','.join(parts)})" if parts else ""


def _parse_filter(query: Query) -> ast._Node | None:
    text = query.get("$filter")
    return None if text is None else parse_filter(text)


def _holds(node: ast._Node | None, definition: Definition) -> bool:
    if node is None:
        return True
    if isinstance(node, ast.BoolOp):
        parts = (_holds(part, definition) for part in flatten(node))
        return any(parts) if isinstance(node.op, ast.Or) else all(parts)
    if isinstance(node, ast.Compare) and isinstance(node.comparator, (ast.Eq, ast.NotEq)):
        same = _value(node.left, definition) == _value(node.right, definition)
        return same is isinstance(node.comparator, ast.Eq)
    if isinstance(node, ast.Call):
        message = f"The function '{node.func.name}' is not supported here."
        raise ServiceError(501, "0x8006088a", message)
    raise bad_request("This $filter is not supported in metadata.")


def _value(node: ast._Node, definition: Definition) -> Any:
    if isinstance(node, ast.Identifier):
        name = column_name(node)
        if name not in definition:
            raise unknown_property(name, _ENTITY)
        return definition[name]
    return getattr(node, "py_val", None)
