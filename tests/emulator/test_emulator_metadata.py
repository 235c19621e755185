"""Metadata describes the tables the way a real environment does."""

import pytest
from emulator_caller import ACCOUNTS, CONTACTS, LINKS, running

from dataverse_sync.emulator import Column, Table

HIDDEN = Table("hidden", "hiddens", "hiddenid", (Column("name", "String"),), in_metadata=False)
ATTRIBUTES = "EntityDefinitions(LogicalName='account')/Attributes"
CAST = "Microsoft.Dynamics.CRM."


@pytest.fixture(scope="module")
def caller():
    with running(ACCOUNTS, CONTACTS, LINKS, HIDDEN) as (_, caller):
        yield caller


def _account(caller, path):
    return caller.value(f"EntityDefinitions?$filter=LogicalName eq 'account'&{path}")[0]


def test_definitions_answer_sync_in_one_request(caller):
    answer = caller.get(
        "EntityDefinitions?$select=LogicalName,EntitySetName,PrimaryIdAttribute,IsIntersect,"
        "ChangeTrackingEnabled&$filter=EntitySetName eq 'accounts' or EntitySetName eq "
        "'account_contactset'&$expand=Attributes($select=LogicalName,AttributeType),"
        "ManyToOneRelationships($select=ReferencedEntity,ReferencingAttribute)"
    )
    account, link = answer.json()["value"]

    assert "@odata.nextLink" not in answer.json()
    assert set(account) == {
        "MetadataId", "LogicalName", "EntitySetName", "PrimaryIdAttribute", "IsIntersect",
        "ChangeTrackingEnabled", "Attributes", "ManyToOneRelationships",
    }  # fmt: skip
    assert (account["IsIntersect"], account["ChangeTrackingEnabled"]) == (False, True)
    assert (link["IsIntersect"], link["PrimaryIdAttribute"]) == (True, "account_contactid")
    assert {
        (r["ReferencingAttribute"], r["ReferencedEntity"])
        for r in account["ManyToOneRelationships"]
    } == {
        ("primarycontactid", "contact"), ("parentcustomerid", "account"),
        ("parentcustomerid", "contact"), ("ownerid", "owner"),
        ("transactioncurrencyid", "transactioncurrency"),
    }  # fmt: skip
    assert link["ManyToOneRelationships"] == []


def test_table_type_and_data_provider_told():
    provider = "c9a7f5b6-2e3d-4a1b-9f80-7d6e5c4b3a21"
    rates = Table("rate", "rates", "rateid", (), table_type="Virtual", data_provider=provider)
    with running(ACCOUNTS, rates) as (emulator, caller):
        path = "EntityDefinitions?$select=EntitySetName,TableType,DataProviderId"
        told = {each["EntitySetName"]: each for each in caller.value(path)}
        emulator.control.unknown_properties = ("TableType",)
        refused = caller.get(path)

    assert (told["accounts"]["TableType"], told["accounts"]["DataProviderId"]) == ("Standard", None)
    assert (told["rates"]["TableType"], told["rates"]["DataProviderId"]) == ("Virtual", provider)
    assert refused.status_code == 400
    assert "Could not find a property named 'TableType'" in refused.json()["error"]["message"]


def test_attributes_include_companions(caller):
    attributes = {
        a["LogicalName"]: a
        for a in _account(
            caller,
            "$expand=Attributes($select=LogicalName,AttributeType,AttributeTypeName,AttributeOf,"
            "IsValidODataAttribute,IsValidForRead,DisplayName)",
        )["Attributes"]
    }

    assert attributes["accountid"]["@odata.type"] == f"#{CAST}UniqueIdentifierAttributeMetadata"
    assert attributes["markets"]["AttributeType"] == "Virtual"
    assert attributes["markets"]["AttributeTypeName"] == {"Value": "MultiSelectPicklistType"}
    assert attributes["primarycontactid"]["AttributeType"] == "Lookup"
    assert attributes["primarycontactidname"]["AttributeOf"] == "primarycontactid"
    assert attributes["industrycodename"]["AttributeType"] == "Virtual"
    assert attributes["owneridtype"]["AttributeType"] == "EntityName"
    assert attributes["participants"]["AttributeType"] == "PartyList"
    assert attributes["name"]["DisplayName"]["UserLocalizedLabel"]["Label"] == "Name"
    columns = {name for name, a in attributes.items() if a["IsValidODataAttribute"]}
    record_members = {name.removeprefix("_").removesuffix("_value") for name in ACCOUNTS.members}
    assert columns == record_members
    assert not any(
        attributes[name]["IsValidODataAttribute"]
        for name in ("primarycontactidname", "industrycodename", "participants", "allowemailname")
    )


def test_unreadable_column_marked():
    table = Table("a", "aset", "aid", (Column("hushed", "String", readable=False),))
    with running(table) as (_, caller):
        found = caller.value(
            f"EntityDefinitions(LogicalName='a')/Attributes/{CAST}StringAttributeMetadata"
            "?$filter=LogicalName eq 'hushed'"
        )[0]

        assert (found["IsValidForRead"], found["IsValidODataAttribute"]) == (False, False)


def test_option_sets_read_by_cast(caller):
    answer = caller.get(
        f"{ATTRIBUTES}/{CAST}PicklistAttributeMetadata?$select=LogicalName"
        "&$expand=OptionSet($select=Options)"
    ).json()
    booleans = caller.value(
        f"{ATTRIBUTES}/{CAST}BooleanAttributeMetadata?$expand=OptionSet,GlobalOptionSet"
    )
    several = caller.value(
        f"{ATTRIBUTES}/{CAST}MultiSelectPicklistAttributeMetadata?$expand=OptionSet"
    )

    assert answer["@odata.context"].endswith(
        "EntityDefinitions('account')/Attributes/Microsoft.Dynamics.CRM.PicklistAttributeMetadata"
    )
    picklist = answer["value"][0]
    assert list(picklist) == ["MetadataId", "LogicalName", "OptionSet"]
    assert set(picklist["OptionSet"]) == {"MetadataId", "Options"}
    assert [
        (o["Value"], o["Label"]["UserLocalizedLabel"]["Label"])
        for o in picklist["OptionSet"]["Options"]
    ] == [(1, "Accounting"), (2, "Health")]
    assert booleans[0]["OptionSet"]["TrueOption"]["Label"]["UserLocalizedLabel"]["Label"] == "Yes"
    assert booleans[0]["GlobalOptionSet"] is None
    assert len(several[0]["OptionSet"]["Options"]) == 3
    assert "OptionSet" not in caller.value(f"{ATTRIBUTES}/{CAST}PicklistAttributeMetadata")[0]


def test_targets_read_by_cast_only(caller):
    lookups = {
        a["LogicalName"]: a["Targets"]
        for a in caller.value(
            f"{ATTRIBUTES}/{CAST}LookupAttributeMetadata?$select=LogicalName,Targets"
        )
    }

    assert lookups["ownerid"] == ["systemuser", "team"]
    assert lookups["parentcustomerid"] == ["account", "contact"]
    assert caller.refusal("EntityDefinitions?$expand=Attributes($select=Targets)") == (
        400, "0x0",
        "Could not find a property named 'Targets' on type "
        "'Microsoft.Dynamics.CRM.AttributeMetadata'.",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("IsIntersect eq true", ["account_contact"]),
        ("IsIntersect ne true and LogicalName ne 'stringmap'", ["account", "contact"]),
        ("DataProviderId eq null and LogicalName eq 'contact'", ["contact"]),
    ],
)
def test_definitions_filtered(caller, text, found):
    value = caller.value(f"EntityDefinitions?$select=LogicalName&$filter={text}")

    assert [definition["LogicalName"] for definition in value] == found


def test_attributes_filtered_by_property(caller):
    found = caller.value(f"{ATTRIBUTES}/{CAST}PicklistAttributeMetadata?$filter=LogicalName ne 'x'")
    nested = _account(
        caller, "$expand=Attributes($select=LogicalName;$filter=AttributeType eq 'Picklist')"
    )

    assert [a["LogicalName"] for a in found] == ["industrycode"]
    assert [a["LogicalName"] for a in nested["Attributes"]] == ["industrycode"]


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("EntityDefinitions?$filter=startswith(LogicalName,'acc')", 501, "0x8006088a"),
        ("EntityDefinitions?$filter=LogicalName gt 'a'", 400, "0x80060888"),
        ("EntityDefinitions?$filter=Nme eq 'a'", 400, "0x0"),
        ("EntityDefinitions?$select=Nme", 400, "0x0"),
        ("EntityDefinitions?$expand=Nme", 400, "0x0"),
        ("EntityDefinitions?$expand=Attributes($select=", 400, "0x80060888"),
        ("EntityDefinitions?$expand=Attributes($select=Nme)", 400, "0x0"),
        ("EntityDefinitions?$expand=Attributes($top=1)", 400, "0x80060888"),
        ("EntityDefinitions?$top=1", 400, "0x80060888"),
        ("EntityDefinitions?$filter=not(LogicalName eq 'account')", 400, "0x80060888"),
        (
            f"EntityDefinitions(LogicalName='nothing')/Attributes/{CAST}StringAttributeMetadata",
            404,
            "0x80060888",
        ),
        ("EntityDefinitions(LogicalName='account')", 404, "0x8006088a"),
        ("EntityDefinitions(LogicalName='account')/Nothing", 404, "0x8006088a"),
        (ATTRIBUTES, 404, "0x8006088a"),
        (f"{ATTRIBUTES}/{CAST}StringAttributeMetadata?$expand=OptionSet", 400, "0x0"),
    ],
)
def test_unsupported_metadata_query_refused(caller, path, status, code):
    assert caller.refusal(path)[:2] == (status, code)


def test_table_unknown_to_metadata_is_readable(caller):
    assert caller.value("EntityDefinitions?$filter=EntitySetName eq 'hiddens'") == []
    assert caller.value("hiddens") == []


def test_metadata_can_be_denied():
    with running(ACCOUNTS, metadata_readable=False) as (_, caller):
        assert caller.refusal("EntityDefinitions")[:2] == (403, "0x80040220")
        assert caller.value("accounts") == []


def test_stringmaps_hold_choice_labels(caller):
    rows = caller.value(
        "stringmaps?$filter=objecttypecode eq 'account' and attributename eq 'industrycode'"
        "&$orderby=displayorder"
    )

    assert [(row["attributevalue"], row["value"], row["langid"]) for row in rows] == [
        (1, "Accounting", 1033), (2, "Health", 1033),
    ]  # fmt: skip
