"""Describe tables as metadata does: EntityMetadata, AttributeMetadata, relationships.

Beside the attributes that become properties of a record stand those that do not, as in a
real environment: the ``...name`` companions of lookups and choices, party lists. Of the
properties that a definition has, these are the ones that a copy of an environment needs.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

from ..data.columns import CHOICES, LOOKUPS, Column
from ..data.tables import Table
from .answers import to_privilege_id

Definition = dict[str, Any]

# What metadata calls a type, if not by the type's own name.
_VIRTUAL = ("MultiSelectPicklist", "File")
_CLASSES = {
    **dict.fromkeys(("Owner", "Customer", "PartyList"), "Lookup"),
    "Uniqueidentifier": "UniqueIdentifier",
    "Virtual": "",
}


def describe_entity(table: Table) -> Definition:
    name = table.logical_name
    return {
        "MetadataId": to_id(name),
        "LogicalName": name,
        "EntitySetName": table.entity_set,
        "PrimaryIdAttribute": table.key,
        "PrimaryNameAttribute": table.name_column,
        "IsIntersect": table.intersect,
        "IsCustomEntity": "_" in name,
        "IsActivity": False,
        "IsLogicalEntity": False,
        "IsPrivate": False,
        "TableType": table.table_type,
        "DataProviderId": table.data_provider,
        "ChangeTrackingEnabled": table.change_tracking,
        "Privileges": [] if table.intersect else [_read_privilege(name)],
        "DisplayName": _label(_words(name)),
        "DisplayCollectionName": _label(_words(table.entity_set)),
        "Description": _label(None),
    }


def _read_privilege(logical_name: str) -> Definition:
    return {
        "Name": f"prvRead{logical_name}",
        "PrivilegeId": to_privilege_id(logical_name),
        "PrivilegeType": "Read",
    }


def describe_attributes(table: Table) -> Iterator[Definition]:
    """Every attribute, with its ``@odata.type`` and the properties that only a cast selects."""
    for column in table.all_columns:
        yield _column_definition(table, column)
        yield from _companions(table, column)


def _column_definition(table: Table, column: Column) -> Definition:
    name, type_ = column.name, column.type
    definition = _attribute(table, name, "Virtual" if type_ in _VIRTUAL else type_, type_)
    definition["IsValidForRead"] = column.readable
    definition["IsSecured"] = column.secured
    definition["IsValidODataAttribute"] = column.readable and bool(column.members)
    definition["RequiredLevel"] = {"Value": "SystemRequired" if name == table.key else "None"}
    if type_ in LOOKUPS or type_ == "PartyList":
        definition["Targets"] = list(column.targets)
    elif type_ == "DateTime":
        definition["Format"] = "DateOnly" if column.date_only else "DateAndTime"
        behavior = "DateOnly" if column.date_only else "UserLocal"
        definition["DateTimeBehavior"] = {"Value": behavior}
    elif type_ in ("Decimal", "Money", "Double"):
        definition["Precision"] = 10 if type_ == "Decimal" else 4
    if type_ in CHOICES:
        definition["OptionSet"] = _option_set(table, column)
    return definition


def _companions(table: Table, column: Column) -> Iterator[Definition]:
    """Attributes that exist because another does: ``primarycontactidname``."""
    of = {"AttributeOf": column.name}
    for member in column.members[1:]:
        yield _attribute(table, member.name, "String", "String") | of
    hidden = of | {"IsValidODataAttribute": False}
    if column.type in LOOKUPS:
        yield _attribute(table, f"{column.name}name", "String", "String") | hidden
        if column.type != "Lookup":
            yield _attribute(table, f"{column.name}type", "EntityName", "EntityName") | hidden
    elif column.type in CHOICES:
        yield _attribute(table, f"{column.name}name", "Virtual", "Virtual") | hidden


def _attribute(table: Table, name: str, attribute_type: str, type_: str) -> Definition:
    return {
        "@odata.type": f"#Microsoft.Dynamics.CRM.{_CLASSES.get(type_, type_)}AttributeMetadata",
        "MetadataId": to_id(table.logical_name, name),
        "LogicalName": name,
        "AttributeType": attribute_type,
        "AttributeTypeName": {"Value": f"{type_}Type"},
        "AttributeOf": None,
        "IsValidForRead": True,
        "IsValidODataAttribute": True,
        "IsSecured": False,
        "DisplayName": _label(_words(name)),
        "Description": _label(None),
        "RequiredLevel": {"Value": "None"},
    }


def describe_relationships(table: Table) -> Iterator[Definition]:
    """One for every lookup and table that it can point to; owners share an abstract table."""
    for column in table.all_columns:
        if column.type not in LOOKUPS:
            continue
        for target in ("owner",) if column.type == "Owner" else column.targets:
            name = f"{target}_{table.logical_name}_{column.name}"
            yield {
                "MetadataId": to_id("relationship", name),
                "SchemaName": name,
                "ReferencedEntity": target,
                "ReferencingEntity": table.logical_name,
                "ReferencingAttribute": column.name,
            }


def _option_set(table: Table, column: Column) -> Definition:
    name = f"{table.logical_name}_{column.name}"
    common = {"MetadataId": to_id("options", name), "Name": name, "IsGlobal": False}
    options = {
        value: {"Value": value, "Label": _label(text), "ExternalValue": None}
        for value, text in (column.options or {}).items()
    }
    if column.type == "Boolean":
        return common | {"TrueOption": options.get(1), "FalseOption": options.get(0)}
    return common | {"Options": list(options.values())}


def _label(text: str | None) -> Definition:
    localized = text and {"Label": text, "LanguageCode": 1033, "IsManaged": False}
    return {"LocalizedLabels": [localized] if text else [], "UserLocalizedLabel": localized}


def _words(name: str) -> str:
    return name.removeprefix("vin_").replace("_", " ").capitalize()


def to_id(*names: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, ".".join(names)))
