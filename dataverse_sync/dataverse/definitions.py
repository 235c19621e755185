"""What columns an entity has: out of EntityDefinitions, or out of a sample record.

Pure functions from decoded JSON to ``Entity``. Metadata knows the key, the
types and where a lookup points; a sample record only lets them be guessed, so
it is the fallback, and says so.

https://learn.microsoft.com/power-apps/developer/data-platform/webapi/query-metadata-web-api
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dataverse_sync.model import IDENTIFIER, Column, ColumnType, Entity

# AttributeType (or, for Virtual ones, AttributeTypeName) → the column's type.
_TYPES: Mapping[str, ColumnType] = {
    "Integer": "INTEGER",
    "BigInt": "INTEGER",
    "Boolean": "INTEGER",
    "Picklist": "INTEGER",
    "State": "INTEGER",
    "Status": "INTEGER",
    "Double": "REAL",
    "Decimal": "REAL",
    "Money": "REAL",
}
_LOOKUPS = ("Lookup", "Owner", "Customer")
_NAVIGATION_ONLY = ("PartyList", "CalendarRules")
_IMAGE_COMPANIONS = ("_timestamp", "_url")
# The relationship of an owner column names the abstract table that both kinds of owner share.
_ABSTRACT_TARGETS = {"owner": ("systemuser", "team"), "principal": ("systemuser", "team")}

DEFINITION_SELECT = (
    "LogicalName",
    "EntitySetName",
    "PrimaryIdAttribute",
    "IsIntersect",
    "ChangeTrackingEnabled",
)
DEFINITION_EXPAND = (
    "Attributes($select=LogicalName,AttributeType,AttributeTypeName,AttributeOf,"
    "IsValidForRead,IsValidODataAttribute),"
    "ManyToOneRelationships($select=ReferencingAttribute,ReferencedEntity)"
)


def definitions_filter(names: Iterable[str]) -> str:
    return " or ".join(f"EntitySetName eq '{name}'" for name in names)


def parse_definition(definition: Mapping[str, Any]) -> Entity:
    """One element of the EntityDefinitions answer.

    Raises:
        KeyError, TypeError, AttributeError: It is not shaped as documented.
    """
    targets: dict[str, list[str]] = {}
    for relationship in definition.get("ManyToOneRelationships") or ():
        referenced = relationship["ReferencedEntity"]
        names = _ABSTRACT_TARGETS.get(referenced, (referenced,))
        targets.setdefault(relationship["ReferencingAttribute"], []).extend(names)
    columns: dict[str, Column] = {}
    for attribute in definition["Attributes"]:
        for column in _columns_of(attribute, targets):
            # No attribute of Dataverse is named otherwise; what else comes stays in the JSON.
            if IDENTIFIER.fullmatch(column.name):
                columns.setdefault(column.name, column)
    key = definition["PrimaryIdAttribute"]
    if not columns or not isinstance(key, str) or not IDENTIFIER.fullmatch(key):
        raise KeyError("PrimaryIdAttribute")
    columns.setdefault(key, Column(key, "TEXT"))
    return Entity(
        name=definition["EntitySetName"],
        key=key,
        columns=tuple(columns.values()),
        source="metadata",
        logical_name=definition["LogicalName"],
        is_intersect=bool(definition.get("IsIntersect")),
        change_tracking=bool(definition.get("ChangeTrackingEnabled")),
    )


def describe_misfit(definition: object, error: Exception) -> tuple[str, str]:
    """Of which entity an element is that ``parse_definition`` cannot take, and what is wrong."""
    names = ("EntitySetName", "LogicalName")
    known = definition if isinstance(definition, Mapping) else {}
    whose = next((known[name] for name in names if isinstance(known.get(name), str)), "an entity")
    what = f"no usable {error.args[0]}" if isinstance(error, KeyError) else str(error)
    return str(whose), what


def _columns_of(
    attribute: Mapping[str, Any], targets: Mapping[str, Sequence[str]]
) -> Iterable[Column]:
    """The columns under the names they have in JSON: none, one, or two for a file."""
    name = attribute["LogicalName"]
    if not _is_readable(attribute):
        return ()
    kind = attribute["AttributeType"]
    if kind in _NAVIGATION_ONLY:
        return ()
    if kind in _LOOKUPS:
        pointed = tuple(sorted(set(targets.get(name, ()))))
        return (Column(f"_{name}_value", "TEXT", pointed),)
    type_name = (attribute.get("AttributeTypeName") or {}).get("Value")
    if type_name == "FileType":
        return (Column(name, "TEXT"), Column(f"{name}_name", "TEXT"))
    return (Column(name, _TYPES.get(kind, "TEXT")),)


def _is_readable(attribute: Mapping[str, Any]) -> bool:
    """Whether the Web API sends the attribute; older services do not have the flag."""
    valid = attribute.get("IsValidODataAttribute")
    if valid is not None:
        return bool(valid)
    parent = attribute.get("AttributeOf")
    if parent is None:
        return bool(attribute.get("IsValidForRead", True))
    name = attribute["LogicalName"]
    return name == parent or name in [parent + suffix for suffix in _IMAGE_COMPANIONS]


# The fallback: a sample record


# Drift
