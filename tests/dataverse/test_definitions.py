"""Columns out of EntityDefinitions, guesses out of a sample record, and drift between the two."""

from __future__ import annotations

import json
import sqlite3
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import MetaData
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateTable

from dataverse_sync.dataverse.definitions import definitions_filter, parse_definition
from dataverse_sync.errors import PageError
from dataverse_sync.model import Column, Entity
from dataverse_sync.schema.drift import accept_entity, diff_entity
from dataverse_sync.schema.inference import detect_key, infer_entity, infer_type
from dataverse_sync.store.tables import SPECIAL_COLUMNS, build_table

SAMPLES = Path(__file__).parents[3] / "shared" / "samples"
needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason="the recorded answers are not here")


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


def test_a_definition_becomes_an_entity():
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


def test_flags_that_are_null_or_absent_are_off():
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
def test_an_attribute_becomes_a_column_of_its_type(kind, expected):
    assert columns(attribute("x_value", kind)) == [Column("x_value", expected)]


@pytest.mark.parametrize("type_name", ["MultiSelectPicklistType", "ImageType"])
def test_choices_and_images_are_text(type_name):
    virtual = attribute("sample", "Virtual", AttributeTypeName={"Value": type_name})

    assert columns(virtual) == [Column("sample", "TEXT")]


def test_a_file_becomes_its_id_and_its_name():
    file = attribute("contract", "Virtual", AttributeTypeName={"Value": "FileType"})
    name = attribute("contract_name", "String")

    assert columns(file, name) == [Column("contract", "TEXT"), Column("contract_name", "TEXT")]


def test_an_attribute_without_a_type_name_is_read_by_its_type():
    assert columns(attribute("number", "Integer", AttributeTypeName=None)) == [
        Column("number", "INTEGER")
    ]


@pytest.mark.parametrize("kind", ["PartyList", "CalendarRules"])
def test_what_can_only_be_navigated_has_no_column(kind):
    assert columns(attribute("to", kind)) == []


@pytest.mark.parametrize("kind", ["Lookup", "Owner", "Customer"])
def test_a_lookup_is_named_as_in_json_and_knows_its_targets(kind):
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


def test_a_lookup_without_relationships_has_no_targets():
    assert columns(attribute("linkid", "Lookup"), ManyToOneRelationships=None) == [
        Column("_linkid_value", "TEXT")
    ]


@pytest.mark.parametrize("abstract", ["owner", "principal"])
def test_an_owner_is_a_user_or_a_team(abstract):
    found = columns(
        attribute("ownerid", "Owner"), ManyToOneRelationships=[points("ownerid", abstract)]
    )

    assert found == [Column("_ownerid_value", "TEXT", ("systemuser", "team"))]


def test_what_the_web_api_does_not_send_has_no_column():
    hidden = attribute("address1_composite", "Memo", IsValidODataAttribute=False)
    name = attribute(
        "statecodename", "Virtual", AttributeOf="statecode", IsValidODataAttribute=False
    )

    assert columns(hidden, name) == []


def test_what_the_web_api_sends_has_a_column_though_it_may_not_be_readable():
    found = columns(attribute("odd", "String", IsValidForRead=False, AttributeOf="other"))

    assert found == [Column("odd", "TEXT")]


@pytest.mark.parametrize("flag", [{"IsValidODataAttribute": None}, {}])
def test_without_the_flag_virtual_names_have_no_column_and_images_their_three(flag):
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


def test_a_key_that_is_not_among_the_attributes_becomes_a_column():
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
def test_a_definition_of_another_shape_raises_one_of_three_errors(broken):
    with pytest.raises((KeyError, TypeError, AttributeError)):
        parse_definition(broken)


def test_definitions_are_asked_for_by_entity_set():
    assert definitions_filter(["accounts", "contacts"]) == (
        "EntitySetName eq 'accounts' or EntitySetName eq 'contacts'"
    )


# A sample record


def test_a_sample_record_lets_an_entity_be_guessed():
    record = {
        "@odata.etag": 'W/"1"',
        "vin_candidateid": "5b7c2f1e-0000-4000-8000-c0ffee000001",
        "vin_number@OData.Community.Display.V1.FormattedValue": "5",
        "vin_number": 5,
        "vin_dose": 1.5,
        "statecode": True,
        "_ownerid_value": None,
        "not a column": 1,
    }

    entity = infer_entity("vin_candidates", record)

    assert entity == Entity(
        name="vin_candidates",
        key="vin_candidateid",
        columns=(
            Column("vin_candidateid", "TEXT"),
            Column("vin_number", "INTEGER"),
            Column("vin_dose", "REAL"),
            Column("statecode", "INTEGER"),
            Column("_ownerid_value", "TEXT"),
        ),
        source="sample",
        key_found="'vin_candidate' + 'id'",
    )


@pytest.mark.parametrize("record", [{}, {"@odata.etag": "x"}, {"a b": 1, "": 2}])
def test_a_sample_record_without_a_column_is_refused(record):
    with pytest.raises(PageError, match="accounts: the first record holds no column"):
        infer_entity("accounts", record)


@pytest.mark.parametrize(
    ("entity_set", "names", "key", "how"),
    [
        ("vin_candidates", ["x", "vin_candidateid"], "vin_candidateid", "'vin_candidate' + 'id'"),
        ("vin_countries", ["vin_countryid", "aid"], "vin_countryid", "'vin_country' + 'id'"),
        (
            "vin_clinicalusestatuses",
            ["id", "vin_clinicalusestatusid"],
            "vin_clinicalusestatusid",
            "'vin_clinicalusestatus' + 'id'",
        ),
        ("feedback", ["id", "feedbackid"], "feedbackid", "named as the set"),
        ("buses", ["busid", "buseid", "busesid"], "busesid", "named as the set"),
        ("buses", ["busid", "buseid"], "buseid", "'buse' + 'id'"),
        (
            "vin_vin_candidate_accountset",
            ["_aid", "vin_candidateid", "accountid"],
            "accountid",
            "the shortest column that ends in 'id'",
        ),
        ("things", ["bid", "aid"], "bid", "the shortest column that ends in 'id'"),
        ("things", ["_ownerid", "code", "name"], "_ownerid", "the first column"),
        ("things", ["code", "Id"], "code", "the first column"),
    ],
)
def test_the_likeliest_key_is_found_and_it_is_said_how(entity_set, names, key, how):
    assert detect_key(entity_set, names) == (key, how)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, "INTEGER"),
        (False, "INTEGER"),
        (0, "INTEGER"),
        (2**70, "INTEGER"),
        (1.0, "REAL"),
        (None, "TEXT"),
        ("5", "TEXT"),
        ([1], "TEXT"),
        ({"Value": 1}, "TEXT"),
    ],
)
def test_a_type_is_guessed_from_a_value(value, expected):
    assert infer_type(value) == expected


# Drift


def entity(columns: Mapping[str, Any], source: Any = "metadata", name: str = "accounts") -> Entity:
    made = tuple(Column(name, type) for name, type in columns.items())
    return Entity(name, "accountid", made, source)


def test_added_removed_and_retyped_columns_are_told():
    locked = entity({"accountid": "TEXT", "gone": "REAL", "number": "TEXT"})
    live = entity({"number": "INTEGER", "accountid": "TEXT", "fresh": "INTEGER"})

    found = diff_entity(locked, live)

    assert [str(drift) for drift in found] == [
        "accounts.fresh: new column (INTEGER), kept in json_response",
        "accounts.gone: column (REAL) is gone from Dataverse",
        "accounts.number: type changed from TEXT to INTEGER",
    ]
    assert [drift.severity for drift in found] == ["info", "breaking", "breaking"]


_COLUMNS = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d"]), st.sampled_from(["TEXT", "INTEGER", "REAL"])
)


@settings(max_examples=100, deadline=None)
@given(was=_COLUMNS, now=_COLUMNS, same=st.booleans())
def test_there_is_no_drift_exactly_where_columns_and_types_are_equal(was, now, same):
    now = dict(reversed(was.items())) if same else now

    found = diff_entity(entity(was), entity(now))

    assert (found == []) == (was == now)
    changed = dict(was)
    for drift in found:
        assert drift.column is not None
        assert changed.pop(drift.column, None) == drift.old_type
        if drift.new_type is not None:
            changed[drift.column] = drift.new_type
    assert changed == now


@settings(max_examples=60, deadline=None)
@given(was=_COLUMNS, now=_COLUMNS, sources=st.sampled_from(["ms", "sm", "ss"]))
def test_a_sample_never_proves_that_a_type_changed(was, now, sources):
    kinds = {"m": "metadata", "s": "sample"}

    found = diff_entity(entity(was, kinds[sources[0]]), entity(now, kinds[sources[1]]))

    assert {drift.column for drift in found} == was.keys() ^ now.keys()
    assert {drift.change for drift in found} <= {"column_added", "column_removed"}


def test_a_column_known_to_be_gone_is_not_told_again_until_it_is_back():
    gone = Column("old", "REAL", gone=True)
    locked = Entity("accounts", "accountid", (Column("accountid", "TEXT"), gone), "metadata")

    away = diff_entity(locked, entity({"accountid": "TEXT"}))
    back = diff_entity(locked, entity({"accountid": "TEXT", "old": "TEXT"}))

    assert away == []
    assert [str(drift) for drift in back] == [
        "accounts.old: new column (TEXT), kept in json_response"
    ]


@settings(max_examples=60, deadline=None)
@given(was=_COLUMNS, now=_COLUMNS, drop=st.booleans())
def test_what_is_accepted_does_not_differ_from_what_is_live(was, now, drop):
    locked, live = entity(was), entity(now)

    accepted = accept_entity(locked, live, drop)

    assert diff_entity(accepted, live) == []
    kept = {column.name: column.type for column in accepted.columns if column.gone}
    assert kept == ({} if drop else {name: was[name] for name in was.keys() - now.keys()})
    assert accept_entity(accepted, live, drop) == accepted


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
def test_every_recorded_table_can_be_made_with_all_its_columns():
    keyed = [name for name in entity_types() if described(name)[0]]
    tables = MetaData()

    for name in keyed:
        build_table(parse_definition(as_definition(name)), tables)
    with closing(sqlite3.connect(":memory:")) as connection:
        for table in tables.tables.values():
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
def test_a_recorded_table_has_the_columns_it_inherits():
    task = parse_definition(as_definition("task"))

    assert task.key == "activityid"
    assert task.has("modifiedon")
    assert task.version_column == "versionnumber"
    assert len(task.columns) > 50


@needs_samples
def test_recorded_attributes_and_the_recorded_csdl_agree_on_the_columns_of_contact():
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


def test_columns_whose_names_are_no_identifiers_are_left_in_the_json() -> None:
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
