"""Describe tables as metadata does: EntityMetadata, AttributeMetadata, relationships.

Beside the attributes that become properties of a record stand those that do not, as in a
real environment: the ``...name`` companions of lookups and choices, party lists.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

from ..data.columns import CHOICES, LOOKUPS, Column
from ..data.tables import Table
from .annotations import navigation_name

Definition = dict[str, Any]

# What metadata calls a type, if not by the type's own name.
_VIRTUAL = ("MultiSelectPicklist", "File")
_CLASSES = {
    **dict.fromkeys(("Owner", "Customer", "PartyList"), "Lookup"),
    "Uniqueidentifier": "UniqueIdentifier",
    "Virtual": "",
}


def entity_definition(table: Table) -> Definition:
    name = table.logical_name
    return {
        "MetadataId": _id(name),
        "LogicalName": name,
        "SchemaName": schema_name(name),
        "EntitySetName": table.entity_set,
        "LogicalCollectionName": table.entity_set,
        "CollectionSchemaName": schema_name(table.entity_set),
        "PrimaryIdAttribute": table.key,
        "PrimaryNameAttribute": table.name_column,
        "ObjectTypeCode": 10_000 + uuid.uuid5(uuid.NAMESPACE_OID, name).int % 2000,
        "IsIntersect": table.intersect,
        "IsCustomEntity": "_" in name,
        "IsActivity": False,
        "IsLogicalEntity": False,
        "IsPrivate": False,
        "TableType": "Standard",
        "DataProviderId": None,
        "DataSourceId": None,
        "OwnershipType": "None" if table.intersect else "UserOwned",
        "ChangeTrackingEnabled": table.change_tracking,
        "DisplayName": label(_words(name)),
        "DisplayCollectionName": label(_words(table.entity_set)),
        "Description": label(None),
    }


def attribute_definitions(table: Table) -> list[Definition]:
    """Every attribute, with its ``@odata.type`` and the properties that only a cast selects."""
    found: list[Definition] = []
    for column in table.all_columns:
        found.append(_column_definition(table, column))
        found.extend(_companions(table, column))
    return found


def _column_definition(table: Table, column: Column) -> Definition:
    name, type_ = column.name, column.type
    definition = _attribute(table, name, "Virtual" if type_ in _VIRTUAL else type_, type_)
    definition |= {
        "IsValidForRead": column.readable,
        "IsValidODataAttribute": column.readable and bool(column.members),
        "IsPrimaryId": name == table.key,
        "IsPrimaryName": name == table.name_column,
    }
    if type_ in LOOKUPS or type_ == "PartyList":
        definition["Targets"] = list(column.targets)
    if type_ in CHOICES:
        definition["OptionSet"] = _option_set(table, column)
    if type_ == "DateTime":
        definition["Format"] = "DateOnly" if column.date_only else "DateAndTime"
        definition["DateTimeBehavior"] = {"Value": "DateOnly" if column.date_only else "UserLocal"}
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
    class_name = f"{_CLASSES.get(type_, type_)}AttributeMetadata"
    return {
        "@odata.type": f"#Microsoft.Dynamics.CRM.{class_name}",
        "MetadataId": _id(table.logical_name, name),
        "LogicalName": name,
        "SchemaName": schema_name(name),
        "EntityLogicalName": table.logical_name,
        "AttributeType": attribute_type,
        "AttributeTypeName": {"Value": f"{type_}Type"},
        "AttributeOf": None,
        "IsValidForRead": True,
        "IsValidODataAttribute": True,
        "IsRetrievable": True,
        "IsLogical": False,
        "IsPrimaryId": False,
        "IsPrimaryName": False,
        "IsCustomAttribute": "_" in name,
        "DisplayName": label(_words(name)),
        "Description": label(None),
    }


def relationship_definitions(table: Table, keys: dict[str, str]) -> list[Definition]:
    """Many-to-one: one for each target of each lookup; an owner is an ``owner``.

    Args:
        table: The table that has the lookups.
        keys: The primary key of every table, by logical name.
    """
    found = []
    for column in table.all_columns:
        if column.type not in LOOKUPS:
            continue
        for target in ("owner",) if column.type == "Owner" else column.targets:
            name = f"{target}_{table.logical_name}_{column.name}"
            found.append(
                {
                    "MetadataId": _id("relationship", name),
                    "SchemaName": name,
                    "RelationshipType": "OneToManyRelationship",
                    "IsCustomRelationship": "_" in column.name,
                    "ReferencedEntity": target,
                    "ReferencedAttribute": keys.get(target, f"{target}id"),
                    "ReferencingEntity": table.logical_name,
                    "ReferencingAttribute": column.name,
                    "ReferencedEntityNavigationPropertyName": name,
                    "ReferencingEntityNavigationPropertyName": navigation_name(column, target),
                }
            )
    return found


def _option_set(table: Table, column: Column) -> Definition:
    name = f"{table.logical_name}_{column.name}"
    common: Definition = {
        "MetadataId": _id("options", name),
        "Name": name,
        "IsGlobal": False,
        "OptionSetType": column.type.removeprefix("MultiSelect"),
        "DisplayName": label(_words(column.name)),
    }
    options = {
        value: _option(column, value, text) for value, text in (column.options or {}).items()
    }
    if column.type == "Boolean":
        return common | {"TrueOption": options.get(1), "FalseOption": options.get(0)}
    return common | {"Options": list(options.values())}


def _option(column: Column, value: int, text: str) -> Definition:
    option: Definition = {"Value": value, "Color": None, "IsManaged": False, "ExternalValue": None}
    if column.type == "State":
        option["@odata.type"] = "#Microsoft.Dynamics.CRM.StateOptionMetadata"
        option |= {"DefaultStatus": value + 1, "InvariantName": text}
    elif column.type == "Status":
        option["@odata.type"] = "#Microsoft.Dynamics.CRM.StatusOptionMetadata"
        option |= {"State": 0 if value == 1 else 1, "TransitionData": None}
    return option | {"Label": label(text), "Description": label(None)}


def label(text: str | None) -> Definition:
    if text is None:
        return {"LocalizedLabels": [], "UserLocalizedLabel": None}
    localized = {
        "Label": text,
        "LanguageCode": 1033,
        "IsManaged": False,
        "MetadataId": _id("label", text),
        "HasChanged": None,
    }
    return {"LocalizedLabels": [localized], "UserLocalizedLabel": localized}


def schema_name(name: str) -> str:
    """``vin_candidate`` as ``vin_Candidate``, ``account`` as ``Account``."""
    prefix, _, rest = name.rpartition("_")
    return f"{prefix}_{rest.capitalize()}" if prefix else name.capitalize()


def _words(name: str) -> str:
    return name.removeprefix("vin_").replace("_", " ").capitalize()


def _id(*names: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, ".".join(names)))
