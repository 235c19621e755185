"""What is read out of EntityDefinitions: columns, choice columns and labels, tables."""

from __future__ import annotations

import json
import sqlite3
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateTable

from dataverse_sync.dataverse.definitions import (
    TABLES_SELECT,
    ChoicesDefinition,
    definitions_filter,
    find_kind,
    iter_options,
    parse_definition,
    parse_table,
)
from dataverse_sync.model import Column, Entity
from dataverse_sync.store.tables import SPECIAL_COLUMNS, build_table

SAMPLES = Path(__file__).parents[3] / "shared" / "samples"
needs_samples = pytest.mark.skipif(
    not SAMPLES.is_dir(), reason="a tenant's recorded answers are not published"
)


def attribute(name: str, kind: str, **more: Any) -> dict[str, Any]:
    return {
        "LogicalName": name,
        "AttributeType": kind,
        "AttributeTypeName": {"Value": f"{kind}Type"},
        "AttributeOf": None,
        "IsValidForRead": True,
        "IsValidODataAttribute": True,
        **more,
    }


def definition(*attributes: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "LogicalName": "account",
        "EntitySetName": "accounts",
        "PrimaryIdAttribute": "accountid",
        "IsIntersect": False,
        "ChangeTrackingEnabled": True,
        "Attributes": [attribute("accountid", "Uniqueidentifier"), *attributes],
        "ManyToOneRelationships": [],
        **more,
    }


def columns(*attributes: Mapping[str, Any], **more: Any) -> list[Column]:
    """The columns of an account with these attributes, but for its key."""
    return list(parse_definition(definition(*attributes, **more)).columns[1:])


def points(attribute: str, entity: str) -> dict[str, str]:
    return {"ReferencingAttribute": attribute, "ReferencedEntity": entity}


# Definitions


def test_definition_becomes_an_entity():
    entity = parse_definition(definition(attribute("name", "String"), IsIntersect=True))

    assert entity == Entity(
        name="accounts",
        key="accountid",
        columns=(Column("accountid", "TEXT"), Column("name", "TEXT")),
        source="metadata",
        logical_name="account",
        is_intersect=True,
        change_tracking=True,
        key_found="metadata",
    )


def test_missing_flags_are_off():
    given_null = parse_definition(definition(IsIntersect=None, ChangeTrackingEnabled=None))
    bare = definition()
    for name in ("IsIntersect", "ChangeTrackingEnabled", "ManyToOneRelationships"):
        del bare[name]

    assert parse_definition(bare) == given_null
    assert (given_null.is_intersect, given_null.change_tracking) == (False, False)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("String", "TEXT"),
        ("Memo", "TEXT"),
        ("EntityName", "TEXT"),
        ("DateTime", "TEXT"),
        ("Uniqueidentifier", "TEXT"),
        ("ManagedProperty", "TEXT"),
        ("Virtual", "TEXT"),
        ("SomethingNew", "TEXT"),
        ("Integer", "INTEGER"),
        ("BigInt", "INTEGER"),
        ("Boolean", "INTEGER"),
        ("Picklist", "INTEGER"),
        ("State", "INTEGER"),
        ("Status", "INTEGER"),
        ("Double", "REAL"),
        ("Decimal", "REAL"),
        ("Money", "REAL"),
    ],
)
def test_attribute_becomes_typed_column(kind, expected):
    assert columns(attribute("x_value", kind)) == [Column("x_value", expected)]


@pytest.mark.parametrize("type_name", ["MultiSelectPicklistType", "ImageType"])
def test_choices_and_images_are_text(type_name):
    virtual = attribute("sample", "Virtual", AttributeTypeName={"Value": type_name})

    assert columns(virtual) == [Column("sample", "TEXT")]


def test_file_becomes_id_and_name():
    file = attribute("contract", "Virtual", AttributeTypeName={"Value": "FileType"})
    name = attribute("contract_name", "String")

    assert columns(file, name) == [Column("contract", "TEXT"), Column("contract_name", "TEXT")]


def test_type_name_may_be_missing():
    assert columns(attribute("number", "Integer", AttributeTypeName=None)) == [
        Column("number", "INTEGER")
    ]


EMPTY_ID = "00000000-0000-0000-0000-000000000000"
PROVIDER = "c9a7f5b6-2e3d-4a1b-9f80-7d6e5c4b3a21"
ELASTIC_PROVIDER = "1d9bde74-9ebd-4da9-8ff5-aa74945b9f74"
PARTITIONED = ["sensorid", "partitionid", "ttlinseconds"]


@pytest.mark.parametrize(
    ("table_type", "provider", "names", "kind"),
    [
        ("Standard", None, [], "standard"),
        ("Standard", EMPTY_ID, [], "standard"),
        ("Standard", None, PARTITIONED, "standard"),
        ("Standard", PROVIDER, [], "virtual"),
        ("Standard", ELASTIC_PROVIDER, [], "elastic"),
        ("Elastic", None, [], "elastic"),
        ("elastic", None, [], "elastic"),
        ("Elastic", ELASTIC_PROVIDER, PARTITIONED, "elastic"),
        ("Elastic", PROVIDER, PARTITIONED, "elastic"),
        ("Virtual", None, [], "virtual"),
        ("Virtual", EMPTY_ID, [], "virtual"),
        ("Virtual", PROVIDER, [], "virtual"),
        ("Virtual", PROVIDER, PARTITIONED, "virtual"),
        (None, None, [], "standard"),
        (None, EMPTY_ID, ["partitionid"], "standard"),
        (None, None, ["ttlinseconds"], "standard"),
        (None, None, PARTITIONED, "elastic"),
        (None, EMPTY_ID, PARTITIONED, "elastic"),
        (None, ELASTIC_PROVIDER, [], "elastic"),
        (None, ELASTIC_PROVIDER.upper(), [], "elastic"),
        (None, f"{{{ELASTIC_PROVIDER}}}", [], "elastic"),
        (None, PROVIDER, [], "virtual"),
        (None, PROVIDER.upper(), ["partitionid"], "virtual"),
        (None, "", [], "standard"),
        ("", PROVIDER, [], "virtual"),
        ("Activity", None, [], "standard"),
        ("Activity", PROVIDER, [], "virtual"),
        ("Activity", None, PARTITIONED, "elastic"),
        (3, {"Value": 1}, [], "standard"),
        (["Elastic"], [], [], "standard"),
    ],
)
def test_kind_told_by_three_signs(table_type, provider, names, kind):
    assert find_kind(table_type, provider, names) == kind

    entity = parse_definition(
        definition(
            *(attribute(name, "String") for name in names),
            TableType=table_type,
            DataProviderId=provider,
        )
    )
    assert entity.kind == kind


def test_definition_without_table_type_is_standard():
    assert parse_definition(definition()).kind == "standard"


@pytest.mark.parametrize("kind", ["PartyList", "CalendarRules"])
def test_navigation_attribute_has_no_column(kind):
    assert columns(attribute("to", kind)) == []


@pytest.mark.parametrize("kind", ["Lookup", "Owner", "Customer"])
def test_lookup_knows_its_targets(kind):
    found = columns(
        attribute("linkid", kind),
        ManyToOneRelationships=[
            points("linkid", "contact"),
            points("linkid", "account"),
            points("linkid", "contact"),
            points("otherid", "team"),
        ],
    )

    assert found == [Column("_linkid_value", "TEXT", ("account", "contact"))]


def test_lookup_without_relationships_has_no_targets():
    assert columns(attribute("linkid", "Lookup"), ManyToOneRelationships=None) == [
        Column("_linkid_value", "TEXT")
    ]


@pytest.mark.parametrize("abstract", ["owner", "principal"])
def test_owner_is_user_or_team(abstract):
    found = columns(
        attribute("ownerid", "Owner"), ManyToOneRelationships=[points("ownerid", abstract)]
    )

    assert found == [Column("_ownerid_value", "TEXT", ("systemuser", "team"))]


def test_unsent_attribute_has_no_column():
    hidden = attribute("address1_composite", "Memo", IsValidODataAttribute=False)
    name = attribute(
        "statecodename", "Virtual", AttributeOf="statecode", IsValidODataAttribute=False
    )

    assert columns(hidden, name) == []


def test_sent_attribute_has_a_column():
    found = columns(attribute("odd", "String", IsValidForRead=False, AttributeOf="other"))

    assert found == [Column("odd", "TEXT")]


@pytest.mark.parametrize("flag", [{"IsValidODataAttribute": None}, {}])
def test_older_service_has_no_odata_flag(flag):
    def old(name: str, kind: str, **more: Any) -> dict[str, Any]:
        made = attribute(name, kind, **more)
        del made["IsValidODataAttribute"]
        return {**made, **flag}

    found = columns(
        old("statecode", "State"),
        old("statecodename", "Virtual", AttributeOf="statecode"),
        old("owneridname", "String", AttributeOf="ownerid"),
        old("unreadable", "String", IsValidForRead=False),
        old("entityimage", "Virtual", AttributeOf="entityimage"),
        old("entityimage_timestamp", "BigInt", AttributeOf="entityimage"),
        old("entityimage_url", "String", AttributeOf="entityimage"),
        old("entityimageid", "Uniqueidentifier", AttributeOf="entityimage"),
    )

    assert [column.name for column in found] == [
        "statecode",
        "entityimage",
        "entityimage_timestamp",
        "entityimage_url",
    ]


def test_key_outside_attributes_becomes_column():
    entity = parse_definition(definition(PrimaryIdAttribute="activityid"))

    assert entity.key == "activityid"
    assert entity.columns == (Column("accountid", "TEXT"), Column("activityid", "TEXT"))


@pytest.mark.parametrize(
    "broken",
    [
        {},
        definition(Attributes=[]),
        definition(Attributes=None),
        definition(Attributes=["name"]),
        definition(PrimaryIdAttribute=None),
        definition({"LogicalName": "name"}),
        definition(ManyToOneRelationships=[{}]),
    ],
)
def test_definition_of_another_shape_is_refused(broken):
    with pytest.raises(msgspec.ValidationError):
        parse_definition(broken)


def test_definitions_filtered_by_entity_set():
    assert definitions_filter(["accounts", "contacts"]) == (
        "EntitySetName eq 'accounts' or EntitySetName eq 'contacts'"
    )


# Choice columns


def test_choice_columns_are_known_by_their_kind():
    found = msgspec.convert(
        {
            "LogicalName": "account",
            "EntitySetName": "accounts",
            "PrimaryNameAttribute": "name",
            "Attributes": [
                attribute("name", "String"),
                attribute("size", "Picklist"),
                attribute("open", "Boolean"),
                attribute(
                    "tags", "Virtual", AttributeTypeName={"Value": "MultiSelectPicklistType"}
                ),
                attribute("bare", "State", AttributeTypeName=None),
            ],
        },
        ChoicesDefinition,
    )

    assert (found.entity_set_name, found.logical_name) == ("accounts", "account")
    assert found.primary_name_attribute == "name"
    assert found.kinds == {
        "size": "Picklist",
        "open": "Boolean",
        "tags": "MultiSelectPicklist",
        "bare": "State",
    }


@pytest.mark.parametrize("odd", ["what?", {"EntitySetName": "accounts"}, {"Attributes": None}])
def test_odd_choices_definition_is_refused(odd):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(odd, ChoicesDefinition)


def option(value: object, *labels: tuple[str, int], user: int | None = None) -> dict[str, Any]:
    return {
        "Value": value,
        "Label": {
            "LocalizedLabels": [{"Label": text, "LanguageCode": code} for text, code in labels],
            "UserLocalizedLabel": {"Label": "x", "LanguageCode": user} if user else None,
        },
    }


def read_options(attributes: list[Any]) -> list[tuple[Any, ...]]:
    return [
        (
            column,
            option.value,
            [(label.label, label.language_code) for label in option.labels],
            option.user_language,
        )
        for column, option in iter_options(attributes)
    ]


def test_options_come_from_column_or_global_choice():
    attributes = [
        {"LogicalName": "a", "OptionSet": {"Options": [option(1, ("One", 1033), ("Un", 1036))]}},
        {"LogicalName": "b", "OptionSet": None, "GlobalOptionSet": {"Options": [option(2)]}},
        {
            "LogicalName": "c",
            "OptionSet": {
                "TrueOption": option(1, ("Yes", 1033), user=1033),
                "FalseOption": option(0, ("No", 1033)),
            },
        },
    ]

    assert read_options(attributes) == [
        ("a", 1, [("One", 1033), ("Un", 1036)], None),
        ("b", 2, [], None),
        ("c", 0, [("No", 1033)], None),
        ("c", 1, [("Yes", 1033)], 1033),
    ]


def test_odd_options_are_passed_over():
    attributes = [
        "no attribute",
        {"LogicalName": "e", "OptionSet": {"Options": "no list", "TrueOption": "no option"}},
        {"LogicalName": "f", "OptionSet": {"Options": [{"Value": "1", "Label": None}]}},
        {"LogicalName": "g", "OptionSet": {"Options": [{"Value": 1, "Label": None}, {}]}},
        {"LogicalName": "h"},
    ]

    assert read_options(attributes) == [("g", 1, [], None), ("g", None, [], None)]


# A list of tables


def label(text: object) -> dict[str, Any]:
    return {"UserLocalizedLabel": {"Label": text}}


TABLE = {
    "EntitySetName": "accounts",
    "LogicalName": "account",
    "PrimaryIdAttribute": "accountid",
    "DisplayName": label("Account"),
    "DisplayCollectionName": label("The\n \x1b[31maccounts"),
    "IsCustomEntity": None,
    "DataProviderId": "x",
}


def test_table_is_listed_under_its_title():
    table = parse_table(TABLE)

    assert table is not None
    assert table.title == "The [31maccounts"
    assert (table.is_custom_entity, table.is_intersect) == (None, None)
    assert table.data_provider_id == "x"


@pytest.mark.parametrize(
    ("change", "title"),
    [
        ({"DisplayCollectionName": None}, "Account"),
        ({"DisplayCollectionName": {"UserLocalizedLabel": None}}, "Account"),
        ({"DisplayCollectionName": 1, "DisplayName": label(None)}, "accounts"),
        ({"DisplayCollectionName": label("x" * 200)}, "x" * 100),
    ],
)
def test_title_falls_back(change, title):
    table = parse_table({**TABLE, **change})

    assert table is not None
    assert table.title == title


def test_tables_are_selected_by_their_fields():
    assert ",".join(TABLES_SELECT) == (
        "LogicalName,EntitySetName,PrimaryIdAttribute,DisplayName,DisplayCollectionName,"
        "IsCustomEntity,IsIntersect,IsPrivate,DataProviderId"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"IsPrivate": True},
        {"EntitySetName": None},
        {"EntitySetName": "a b"},
        {"LogicalName": "x' or"},
        {"PrimaryIdAttribute": ""},
    ],
)
def test_unusable_table_is_left_out(change):
    assert parse_table({**TABLE, **change}) is None
    assert parse_table("no definition") is None


# A recorded environment: 360 tables as its $metadata describes them

EDM = "{http://docs.oasis-open.org/odata/ns/edm}"
KINDS = {  # what EntityDefinitions calls what the CSDL calls Edm.…
    "Edm.String": "String",
    "Edm.Guid": "Uniqueidentifier",
    "Edm.DateTimeOffset": "DateTime",
    "Edm.Date": "DateTime",
    "Edm.Binary": "Virtual",
    "Edm.Int16": "Integer",
    "Edm.Int32": "Integer",
    "Edm.Int64": "BigInt",
    "Edm.Boolean": "Boolean",
    "Edm.Double": "Double",
    "Edm.Decimal": "Decimal",
}
STORED = {
    "Edm.Int16": "INTEGER",
    "Edm.Int32": "INTEGER",
    "Edm.Int64": "INTEGER",
    "Edm.Boolean": "INTEGER",
    "Edm.Double": "REAL",
    "Edm.Decimal": "REAL",
}


@cache
def entity_types() -> dict[str, ET.Element]:
    root = ET.parse(SAMPLES / "csdl" / "embc-2022-10-metadata.xml").getroot()
    return {each.attrib["Name"]: each for each in root.iter(f"{EDM}EntityType")}


def lineage(name: str | None) -> Iterator[ET.Element]:
    """The type and those it inherits from, nearest first."""
    while name is not None:
        found = entity_types()[name.rpartition(".")[2]]
        yield found
        name = found.get("BaseType")


@cache
def described(name: str) -> tuple[str | None, dict[str, str]]:
    """Key and properties of a type, inherited ones too: name → Edm type."""
    properties: dict[str, str] = {}
    key = None
    for each in lineage(name):
        for found in each.findall(f"{EDM}Property"):
            properties.setdefault(found.attrib["Name"], found.attrib["Type"])
        reference = each.find(f"{EDM}Key/{EDM}PropertyRef")
        if key is None and reference is not None:
            key = reference.attrib["Name"]
    return key, properties


def as_definition(name: str) -> dict[str, Any]:
    """The type as EntityDefinitions would describe it."""
    key, properties = described(name)
    attributes = []
    for property, edm in properties.items():
        if property.startswith("_") and property.endswith("_value") and edm == "Edm.Guid":
            attributes.append(attribute(property[1 : -len("_value")], "Lookup"))
        else:
            attributes.append(attribute(property, KINDS.get(edm, "ManagedProperty")))
    return {
        "LogicalName": name,
        "EntitySetName": f"{name}s",
        "PrimaryIdAttribute": key,
        "Attributes": attributes,
        "ManyToOneRelationships": [
            points(constraint.attrib["Property"][1 : -len("_value")], navigation.attrib["Type"])
            for each in lineage(name)
            for navigation in each.findall(f"{EDM}NavigationProperty")
            for constraint in navigation.findall(f"{EDM}ReferentialConstraint")
        ],
    }


@needs_samples
def test_every_recorded_table_can_be_made():
    keyed = [name for name in entity_types() if described(name)[0]]

    tables = [build_table(parse_definition(as_definition(name))).table for name in keyed]
    with closing(sqlite3.connect(":memory:")) as connection:
        for table in tables:
            connection.execute(str(CreateTable(table).compile(dialect=sqlite.dialect())))
        made = {
            name: connection.execute(f'PRAGMA table_info("{name}s")').fetchall() for name in keyed
        }

    assert len(keyed) > 350
    for name in keyed:
        key, properties = described(name)
        wanted = {column: STORED.get(edm, "TEXT") for column, edm in properties.items()}
        found = {column: type for _, column, type, *_ in made[name]}
        assert found == {**wanted, **dict.fromkeys(SPECIAL_COLUMNS, "TEXT")}
        assert [column for _, column, *_, is_key in made[name] if is_key] == [key]


@needs_samples
def test_recorded_table_has_inherited_columns():
    task = parse_definition(as_definition("task"))

    assert task.key == "activityid"
    assert task.has("modifiedon")
    assert task.version_column == "versionnumber"
    assert len(task.columns) > 50


@needs_samples
def test_recorded_attributes_agree_with_csdl():
    recorded = json.loads(
        (SAMPLES / "webapi-recorded/contact-metadata-attributes.json").read_text()
    )
    _, properties = described("contact")
    kinds = [each["AttributeTypeName"]["Value"].removesuffix("Type") for each in recorded["value"]]
    attributes = [
        {**each, "AttributeType": kind} for each, kind in zip(recorded["value"], kinds, strict=True)
    ]

    found = parse_definition(definition(*attributes)).columns

    agreeing = {column.name: column.type for column in found if column.name in properties}
    assert agreeing == {name: STORED.get(properties[name], "TEXT") for name in agreeing}
    assert sorted(agreeing) == [
        "_accountid_value",
        "_createdby_value",
        "annualincome",
        "birthdate",
        "createdon",
        "educationcode",
        "exchangerate",
        "familystatuscode",
        "gendercode",
        "importsequencenumber",
        "merged",
        "statecode",
        "statuscode",
        "versionnumber",
    ]


def test_odd_column_names_stay_in_json() -> None:
    names = ["vin_name", 'a"b', "d e", "\u00e9", "x" * 200, ""]
    definition = {
        "EntitySetName": "vin_things",
        "LogicalName": "vin_thing",
        "PrimaryIdAttribute": "vin_thingid",
        "Attributes": [
            {"LogicalName": name, "AttributeType": "String", "IsValidODataAttribute": True}
            for name in names
        ],
    }

    entity = parse_definition(definition)

    assert [column.name for column in entity.columns] == ["vin_name", "vin_thingid"]
