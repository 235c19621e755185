"""Describe tables as metadata does: EntityMetadata, AttributeMetadata, relationships.

Beside the attributes that become properties of a record stand those that do not, as in a
real environment: the ``...name`` companions of lookups and choices, party lists.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any

from ..data.columns import CHOICES, LOOKUPS, Column, Member, Storage
from ..data.tables import Table
from .annotations import navigation_name

Definition = dict[str, Any]


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
        "CanChangeTrackingBeEnabled": _managed(True, "canchangetrackingbeenabled"),
        "IsCustomizable": _managed(True, "iscustomizable"),
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
    kind = column.kind
    definition = _attribute(
        table, column.name, kind.attribute_type, kind.type_name, kind.metadata_type
    )
    definition |= {
        "IsValidForRead": column.readable,
        "IsValidODataAttribute": column.readable and bool(column.members),
        "IsPrimaryId": column.name == table.key,
        "IsPrimaryName": column.name == table.name_column,
    }
    if kind.metadata_type == "LookupAttributeMetadata":
        definition["Targets"] = (
            ["systemuser", "team"] if column.type == "Owner" else list(column.targets)
        )
    if column.type in CHOICES:
        definition["OptionSet"] = _option_set(table, column)
    if column.type == "DateTime":
        definition["Format"] = "DateOnly" if column.date_only else "DateAndTime"
        definition["DateTimeBehavior"] = {"Value": "DateOnly" if column.date_only else "UserLocal"}
    return definition


def _companions(table: Table, column: Column) -> Iterable[Definition]:
    """Attributes that exist because another does: ``primarycontactidname``."""
    for member in column.members[1:]:
        yield _companion(table, column, member.name, *_member_type(member), valid=True)
    if column.type in LOOKUPS:
        yield _companion(table, column, f"{column.name}name", "String", "String")
        if column.type != "Lookup":
            yield _companion(table, column, f"{column.name}type", "EntityName", "EntityName")
    elif column.type in CHOICES:
        yield _companion(table, column, f"{column.name}name", "Virtual", "Virtual")


def _member_type(member: Member) -> tuple[str, str]:
    return {
        Storage.WHOLE: ("BigInt", "BigInt"),
        Storage.GUID: ("Uniqueidentifier", "Uniqueidentifier"),
    }.get(member.storage, ("String", "String"))


def _companion(
    table: Table, column: Column, name: str, type_: str, stem: str, *, valid: bool = False
) -> Definition:
    metadata_type = {"Virtual": "AttributeMetadata", "Uniqueidentifier": "UniqueIdentifier"}.get(
        stem, stem
    )
    metadata_type = metadata_type.removesuffix("AttributeMetadata") + "AttributeMetadata"
    return _attribute(table, name, type_, f"{stem}Type", metadata_type) | {
        "AttributeOf": column.name,
        "IsValidODataAttribute": valid,
    }


def _attribute(
    table: Table, name: str, type_: str, type_name: str, metadata_type: str
) -> Definition:
    return {
        "@odata.type": f"#Microsoft.Dynamics.CRM.{metadata_type}",
        "MetadataId": _id(table.logical_name, name),
        "LogicalName": name,
        "SchemaName": schema_name(name),
        "EntityLogicalName": table.logical_name,
        "AttributeType": type_,
        "AttributeTypeName": {"Value": type_name},
        "AttributeOf": None,
        "IsValidForRead": True,
        "IsValidForCreate": True,
        "IsValidForUpdate": True,
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
        targets = ("owner",) if column.type == "Owner" else column.targets
        for target in targets:
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


def option_list(column: Column) -> list[Definition]:
    return [
        {
            "Value": value,
            "Color": None,
            "IsManaged": False,
            "ExternalValue": None,
            "ParentValues": [],
            "Tag": None,
            "IsHidden": False,
            "MetadataId": None,
            "HasChanged": None,
            **_option_extras(column, value, text),
            "Label": label(text),
            "Description": label(None),
        }
        for value, text in (column.options or {}).items()
    ]


def _option_extras(column: Column, value: int, text: str) -> Definition:
    if column.type == "State":
        return {
            "@odata.type": "#Microsoft.Dynamics.CRM.StateOptionMetadata",
            "DefaultStatus": value + 1,
            "InvariantName": text,
        }
    if column.type == "Status":
        return {
            "@odata.type": "#Microsoft.Dynamics.CRM.StatusOptionMetadata",
            "State": 0 if value == 1 else 1,
            "TransitionData": None,
        }
    return {}


def _option_set(table: Table, column: Column) -> Definition:
    options = option_list(column)
    name = f"{table.logical_name}_{column.name}"
    common: Definition = {
        "MetadataId": _id("options", name),
        "Name": name,
        "IsGlobal": False,
        "OptionSetType": column.type.removeprefix("MultiSelect"),
        "DisplayName": label(_words(column.name)),
    }
    if column.type == "Boolean":
        by_value = {option["Value"]: option for option in options}
        return common | {"TrueOption": by_value.get(1), "FalseOption": by_value.get(0)}
    return common | {"Options": options}


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


def _managed(value: bool, name: str) -> Definition:
    return {"Value": value, "CanBeChanged": True, "ManagedPropertyLogicalName": name}


def _id(*names: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, ".".join(names)))
