"""Answer ``EntityDefinitions``: one answer, never paged, with its own small query language.

https://learn.microsoft.com/power-apps/developer/data-platform/webapi/query-metadata-web-api
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from odata_query import ast

from ..data.tables import Table
from . import answers
from .answers import Answer, ServiceError
from .definitions import Definition, describe_attributes, describe_entity, describe_relationships
from .filters import column_name, flatten, parse_filter
from .query import Query, check_options, split_call, split_outside
from .request import Backend

_CAST = re.compile(
    r"EntityDefinitions\(LogicalName='([^']*)'\)/Attributes/Microsoft\.Dynamics\.CRM\.(\w+)"
)
_ENTITY = "EntityMetadata"
_OWN = ("Targets", "Format", "DateTimeBehavior", "Precision")  # of a type, not of every attribute


def answer_metadata(backend: Backend, path: str, query: Query, base: str) -> Answer:
    if not backend.control.metadata_readable:
        raise answers.missing_privilege("Entity")
    check_options(query, ("$select", "$filter", "$expand"))
    tables = [table for table in backend.store.specs if table.in_metadata]
    if path == "EntityDefinitions":
        value = _entities(tables, query, backend.control.unknown_properties)
    else:
        match = _CAST.fullmatch(path)
        if match is None:
            raise answers.unknown_segment(path)
        value = _attributes(tables, match[1], match[2], query)
    context = f"{base}$metadata#{path.replace('LogicalName=', '')}"
    return answers.json_answer({"@odata.context": context, "value": value})


def _entities(tables: Sequence[Table], query: Query, unknown: Sequence[str]) -> list[Definition]:
    found = {table.logical_name: (table, describe_entity(table)) for table in tables}
    for _, definition in found.values():
        for name in unknown:
            definition.pop(name)
    kept = _filtered((definition for _, definition in found.values()), query)
    return [
        _selected(each, query, _ENTITY) | _expanded(found[each["LogicalName"]][0], query)
        for each in kept
    ]


def _expanded(table: Table, query: Query) -> Definition:
    expanded = {}
    for name, inner in _expansions(query):
        check_options(inner, ("$select", "$filter"))
        if name == "Attributes":
            type_name, found = "AttributeMetadata", describe_attributes(table)
        elif name == "ManyToOneRelationships":
            type_name, found = "OneToManyRelationshipMetadata", describe_relationships(table)
        else:
            raise answers.unknown_property(name, _ENTITY)
        left_out = ("OptionSet",) if inner.select is None else ("OptionSet", *_OWN)
        plain = [{n: v for n, v in each.items() if n not in left_out} for each in found]
        expanded[name] = [_selected(each, inner, type_name) for each in _filtered(plain, inner)]
    return expanded


def _attributes(tables: Sequence[Table], name: str, cast: str, query: Query) -> list[Definition]:
    """The attributes of one type, with what only that type has."""
    table = next((table for table in tables if table.logical_name == name), None)
    if table is None:
        message = f"Could not find an entity with name {name} and metadata id."
        raise ServiceError(404, "0x80060888", message)
    rows = []
    for attribute in _filtered(describe_attributes(table), query):
        options = attribute.pop("OptionSet", None)
        if attribute.pop("@odata.type") != f"#Microsoft.Dynamics.CRM.{cast}":
            continue
        row = _selected(attribute, query, cast)
        for part, inner in _expansions(query):
            if part not in {"OptionSet", "GlobalOptionSet"} or options is None:
                raise answers.unknown_property(part, cast)
            own = part == "OptionSet"
            row[part] = _selected(options, inner, "OptionSetMetadata") if own else None
        rows.append(row)
    return rows


def _expansions(query: Query) -> Iterator[tuple[str, Query]]:
    for part in split_outside(query.get("$expand") or "", ","):
        name, options = split_call(part)
        yield name, Query(options)


def _selected(definition: Definition, query: Query, type_name: str) -> Definition:
    if query.select is None:
        return definition
    for name in query.select:
        if name not in definition:
            raise answers.unknown_property(name, type_name)
    kept = {"@odata.type", "MetadataId", *query.select}
    return {name: value for name, value in definition.items() if name in kept}


def _filtered(definitions: Iterable[Definition], query: Query) -> list[Definition]:
    text = query.get("$filter")
    if text is None:
        return list(definitions)
    tree = parse_filter(text)
    return [definition for definition in definitions if _holds(tree, definition)]


def _holds(node: ast._Node, definition: Definition) -> bool:
    if isinstance(node, ast.BoolOp):
        parts = (_holds(part, definition) for part in flatten(node))
        return any(parts) if isinstance(node.op, ast.Or) else all(parts)
    if isinstance(node, ast.Compare) and isinstance(node.comparator, (ast.Eq, ast.NotEq)):
        same = _value(node.left, definition) == _value(node.right, definition)
        return same is isinstance(node.comparator, ast.Eq)
    if isinstance(node, ast.Call):
        message = f"The function '{node.func.name}' is not supported here."
        raise ServiceError(501, "0x8006088a", message)
    raise answers.bad_request("This $filter is not supported in metadata.")


def _value(node: ast._Node, definition: Definition) -> Any:
    if isinstance(node, ast.Identifier):
        name = column_name(node)
        if name not in definition:
            raise answers.unknown_property(name, _ENTITY)
        return definition[name]
    return getattr(node, "py_val", None)
