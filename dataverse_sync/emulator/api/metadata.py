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
from .environment import Environment, privilege_id
from .expand import split_call, split_outside
from .filters import column_name, flatten, function_name, parse_filter
from .options import Query, check_options

_ONE = re.compile(
    r"EntityDefinitions\((?:LogicalName='(?P<name>[^']*)'|(?P<id>[0-9a-fA-F-]{36}))\)(?P<rest>.*)"
)
_ATTRIBUTE = re.compile(r"/Attributes\(LogicalName='(?P<name>[^']*)'\)(?P<cast>/[\w.]+)?")
_ENUM = re.compile(r"Microsoft\.Dynamics\.CRM\.\w+('(?:[^']|'')*')")
_ENTITY = "EntityMetadata"
_RELATIONSHIP = "OneToManyRelationshipMetadata"


def answer_metadata(env: Environment, path: str, query: Query, base: str) -> Answer:
    if not env.metadata_readable:
        raise missing_privilege("Entity", env.user_id, privilege_id("Entity"))
    check_options(query, ("$select", "$filter", "$expand"))
    tables = [table for table in env.specs if table.in_metadata]
    if path == "EntityDefinitions":
        return _entities(env, tables, query, base)
    match = _ONE.fullmatch(path)
    if match is None:
        raise unknown_segment(path)
    for table in tables:
        if match["name"] == table.logical_name or match["id"] == _metadata_id(table):
            return _one(env, table, match["rest"], query, base)
    name = match["name"] or match["id"]
    raise ServiceError(
        404, "0x80060888", f"Could not find an entity with name {name} and metadata id."
    )


def _entities(env: Environment, tables: Sequence[Table], query: Query, base: str) -> Answer:
    found = _kept([(entity_definition(table), table) for table in tables], query.get("$filter"))
    value = [
        _selected(definition, query.get("$select"), _ENTITY)
        | _expanded(env, table, query.get("$expand"))
        for definition, table in found
    ]
    context = f"{base}$metadata#EntityDefinitions{_listed(query)}"
    return json_answer({"@odata.context": context, "value": value})


def _one(env: Environment, table: Table, rest: str, query: Query, base: str) -> Answer:
    root = f"{base}$metadata#EntityDefinitions"
    if not rest:
        definition = _selected(entity_definition(table), query.get("$select"), _ENTITY)
        definition |= _expanded(env, table, query.get("$expand"))
        return json_answer({"@odata.context": f"{root}{_listed(query)}/$entity", **definition})
    context = f"{root}('{table.logical_name}'){rest}{_listed(query)}"
    if rest == "/ManyToOneRelationships":
        value = _shown(_relationships(env, table), query, _RELATIONSHIP)
        return json_answer({"@odata.context": context, "value": value})
    one = _ATTRIBUTE.fullmatch(rest)
    if one:
        found = [a for a in attribute_definitions(table) if a["LogicalName"] == one["name"]]
        found = _cast(found, one["cast"], query)
        if not found:
            raise ServiceError(404, "0x80060888", f"Could not find attribute {one['name']}.")
        return json_answer({"@odata.context": f"{context}/$entity", **found[0]})
    name, _, cast = rest.removeprefix("/").partition("/")
    if name != "Attributes":
        raise unknown_segment(name)
    value = _cast(attribute_definitions(table), cast and f"/{cast}", query)
    return json_answer({"@odata.context": context, "value": value})


def _cast(attributes: list[Definition], cast: str | None, query: Query) -> list[Definition]:
    """The attributes of one type, with what only that type has."""
    if not cast:
        if query.get("$expand"):
            raise unknown_property(str(query.get("$expand")), "AttributeMetadata")
        return _shown(attributes, query, "AttributeMetadata")
    type_name = "#" + cast.removeprefix("/")
    attributes = [a for a in attributes if a["@odata.type"] == type_name]
    expand = query.get("$expand")
    shown = []
    for attribute, _ in _kept([(a, None) for a in attributes], query.get("$filter")):
        options = attribute.pop("OptionSet", None)
        del attribute["@odata.type"]
        row = _selected(attribute, query.get("$select"), cast.rpartition(".")[2])
        for part in split_outside(expand or "", ","):
            name, inner = split_call(part)
            if name not in {"OptionSet", "GlobalOptionSet"} or options is None:
                raise unknown_property(name, cast.rpartition(".")[2])
            wanted = inner.get("$select")
            row[name] = None
            if name == "OptionSet":
                row[name] = _selected(options, wanted, "OptionSetMetadata")
        shown.append(row)
    return shown


def _expanded(env: Environment, table: Table, expand: str | None) -> Definition:
    sources: dict[str, tuple[Callable[[], list[Definition]], str]] = {
        "Attributes": (lambda: attribute_definitions(table), "AttributeMetadata"),
        "ManyToOneRelationships": (lambda: _relationships(env, table), _RELATIONSHIP),
        "OneToManyRelationships": (lambda: _relationships_to(env, table), _RELATIONSHIP),
        "Keys": (list, "EntityKeyMetadata"),
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


def _relationships(env: Environment, table: Table) -> list[Definition]:
    return relationship_definitions(table, {t.logical_name: t.key for t in env.specs})


def _relationships_to(env: Environment, table: Table) -> list[Definition]:
    return [
        relationship
        for other in env.specs
        for relationship in _relationships(env, other)
        if relationship["ReferencedEntity"] == table.logical_name
    ]


def _shown(definitions: list[Definition], query: Query, type_name: str) -> list[Definition]:
    kept = _kept([(definition, None) for definition in definitions], query.get("$filter"))
    if type_name == "AttributeMetadata" and query.get("$select"):
        for definition, _ in kept:
            for name in ("Targets", "OptionSet", "Format", "DateTimeBehavior"):
                definition.pop(name, None)
    return [_selected(definition, query.get("$select"), type_name) for definition, _ in kept]


def _selected(definition: Definition, select: str | None, type_name: str) -> Definition:
    if select is None:
        return {name: value for name, value in definition.items() if name != "OptionSet"} | (
            {"OptionSet": definition["OptionSet"]}
            if type_name == "OptionSetMetadata" and "OptionSet" in definition
            else {}
        )
    names = [name.strip() for name in select.split(",")]
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


def _metadata_id(table: Table) -> str:
    return str(entity_definition(table)["MetadataId"])


def _kept(found: list[tuple[Definition, Any]], text: str | None) -> list[tuple[Definition, Any]]:
    if text is None:
        return found
    tree = parse_filter(_ENUM.sub(r"\1", text))
    return [(definition, other) for definition, other in found if _holds(tree, definition)]


def _holds(node: ast._Node, definition: Definition) -> bool:
    if isinstance(node, ast.BoolOp):
        parts = (_holds(part, definition) for part in flatten(node))
        return any(parts) if isinstance(node.op, ast.Or) else all(parts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return not _holds(node.operand, definition)
    if isinstance(node, ast.Compare) and isinstance(node.comparator, (ast.Eq, ast.NotEq)):
        same = _value(node.left, definition) == _value(node.right, definition)
        return same is isinstance(node.comparator, ast.Eq)
    if isinstance(node, ast.Call):
        raise ServiceError(
            501, "0x8006088a", f"The function '{function_name(node)}' is not supported here."
        )
    raise bad_request("This $filter is not supported in metadata.")


def _value(node: ast._Node, definition: Definition) -> Any:
    if isinstance(node, ast.Identifier):
        name = column_name(node)
        if name not in definition:
            raise unknown_property(name, _ENTITY)
        return definition[name]
    if isinstance(node, ast.Attribute):
        return _value(node.owner, definition)[node.attr]
    return node.val.lower() if isinstance(node, ast.GUID) else getattr(node, "py_val", None)
