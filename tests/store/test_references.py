"""Which records of the filtered tables can be reached, told from the tables themselves."""

from __future__ import annotations

import json

import pytest
from conftest import raw

from dataverse_sync.model import Column, Entity
from dataverse_sync.store.references import Link, References, find_links
from dataverse_sync.store.tables import build_table
from dataverse_sync.store.upsert import write_records


def text(*names: str) -> tuple[Column, ...]:
    return tuple(Column(name, "TEXT") for name in names)


def lookup(name: str, *targets: str) -> Column:
    return Column(f"_{name}_value", "TEXT", targets)


CANDIDATES = Entity(
    "vin_candidates",
    "vin_candidateid",
    (*text("vin_candidateid", "vin_name"), lookup("vin_developerid", "account")),
    "metadata",
    "vin_candidate",
)
LINKS = Entity(
    "vin_vin_candidate_accountset",
    "vin_vin_candidate_accountid",
    text("vin_vin_candidate_accountid", "vin_candidateid", "accountid"),
    "metadata",
    "vin_vin_candidate_account",
    is_intersect=True,
)
ACCOUNTS = Entity(
    "accounts",
    "accountid",
    (
        *text("accountid", "name"),
        lookup("primarycontactid", "contact"),
        lookup("parentaccountid", "account"),
        lookup("ownerid", "systemuser", "team"),
    ),
    "metadata",
    "account",
)
CONTACTS = Entity(
    "contacts",
    "contactid",
    (*text("contactid", "fullname"), lookup("parentcustomerid", "account", "contact")),
    "metadata",
    "contact",
)
USERS = Entity("systemusers", "systemuserid", text("systemuserid"), "metadata", "systemuser")
ENTITIES = [CANDIDATES, LINKS, ACCOUNTS, CONTACTS, USERS]
FILTERED = ["accounts", "contacts", "systemusers"]


def guid(n: int) -> str:
    return f"{n:08x}-0000-4000-8000-0000000000ab"


@pytest.fixture
def tables(connection):
    tables = {entity.name: build_table(entity) for entity in ENTITIES}
    for table in tables.values():
        table.table.create(connection)
    return tables


@pytest.fixture
def put(connection, tables):
    def put(name: str, **record: str) -> None:
        write_records(connection, tables[name], [raw(json.dumps(record))], "now")

    return put


@pytest.fixture
def find(connection, tables):
    def find() -> References:
        references = References(connection, tables, FILTERED)
        references.reach()
        return references

    return find


def keys(connection, query) -> list[str]:
    return sorted(connection.execute(query).scalars())


# Which columns link


def test_metadata_says_where_lookups_point():
    links = find_links(ENTITIES, FILTERED)

    assert sorted((link.source, link.column, link.target) for link in links) == [
        ("accounts", "_ownerid_value", "systemusers"),
        ("accounts", "_parentaccountid_value", "accounts"),
        ("accounts", "_primarycontactid_value", "contacts"),
        ("contacts", "_parentcustomerid_value", "accounts"),
        ("contacts", "_parentcustomerid_value", "contacts"),
        ("vin_candidates", "_vin_developerid_value", "accounts"),
        ("vin_vin_candidate_accountset", "accountid", "accounts"),
    ]


def test_key_name_links_only_in_junctions():
    notes = Entity("notes", "noteid", text("noteid", "accountid"), "metadata", "note")

    assert find_links([notes, ACCOUNTS], ["accounts"]) == [
        Link("accounts", "_parentaccountid_value", "accounts")
    ]


def test_own_key_is_not_a_link():
    junction = Entity("accounts2", "accountid", text("accountid"), "metadata", "a2", True)

    assert find_links([junction, USERS], ["accounts2", "systemusers"]) == []


@pytest.mark.parametrize(
    ("source", "target"),
    [("sample", ACCOUNTS), ("metadata", Entity("accounts", "accountid", (), "sample"))],
)
def test_without_metadata_names_decide(source, target):
    notes = Entity(
        "notes",
        "noteid",
        text("noteid", "accountid", "_regardingobjectid_value", "_ownerid_value", "value", "_x"),
        source,
        "note",
    )

    links = [link for link in find_links([notes, target], ["accounts"]) if link.source == "notes"]

    assert [link.column for link in links] == [
        "_regardingobjectid_value",
        "_ownerid_value",
        "accountid",
    ]


def test_only_filtered_entities_are_linked_to():
    assert find_links(ENTITIES, []) == []


# What can be reached


def test_lookups_and_junctions_reach(put, find):
    put("vin_candidates", vin_candidateid=guid(1), _vin_developerid_value=guid(10))
    put("vin_candidates", vin_candidateid=guid(2))
    put("vin_vin_candidate_accountset", vin_vin_candidate_accountid=guid(3), accountid=guid(11))

    references = find()

    assert references.list_unasked("accounts") == ([guid(10), guid(11)], [])
    assert references.list_unasked("contacts") == ([], [])


def test_stored_and_new_ids_are_separate(put, find):
    put("vin_candidates", vin_candidateid=guid(1), _vin_developerid_value=guid(10))
    put("vin_candidates", vin_candidateid=guid(2), _vin_developerid_value=guid(11))
    put("accounts", accountid=guid(10))

    assert find().list_unasked("accounts") == ([guid(11)], [guid(10)])


def test_no_id_is_asked_for_twice(put, find):
    put("vin_candidates", vin_candidateid=guid(1), _vin_developerid_value=guid(10))
    references = find()

    references.mark_asked("accounts", [guid(10)])
    references.mark_asked("contacts", [])
    references.reach()

    assert references.list_unasked("accounts") == ([], [])


def test_links_are_followed_onward(connection, put, find):
    put("vin_candidates", vin_candidateid=guid(1), _vin_developerid_value=guid(10))
    put("accounts", accountid=guid(10), _primarycontactid_value=guid(20))
    put("contacts", contactid=guid(20), _parentcustomerid_value=guid(11))
    put("accounts", accountid=guid(11), _parentaccountid_value=guid(12), _ownerid_value=guid(30))

    references = find()

    assert references.list_unasked("accounts") == ([guid(12)], [guid(10), guid(11)])
    # A customer may be an account or a contact: its id is asked for in both.
    assert references.list_unasked("contacts") == ([guid(11)], [guid(20)])
    assert references.list_unasked("systemusers") == ([guid(30)], [])
    assert keys(connection, references.unlinked("accounts")) == []


def test_separate_cycle_is_unlinked(connection, put, find):
    put("accounts", accountid=guid(10), _primarycontactid_value=guid(20))
    put("contacts", contactid=guid(20), _parentcustomerid_value=guid(10))
    put("accounts", accountid=guid(11), _parentaccountid_value=guid(11))

    references = find()

    assert keys(connection, references.unlinked("accounts")) == [guid(10), guid(11)]
    assert keys(connection, references.unlinked("contacts")) == [guid(20)]
    assert references.list_unasked("accounts") == ([], [])


def test_linked_cycle_is_reached(connection, put, find):
    put("vin_candidates", vin_candidateid=guid(1), _vin_developerid_value=guid(10))
    put("accounts", accountid=guid(10), _primarycontactid_value=guid(20))
    put("contacts", contactid=guid(20), _parentcustomerid_value=guid(10))

    references = find()

    assert keys(connection, references.unlinked("accounts")) == []
    assert keys(connection, references.unlinked("contacts")) == []


def test_case_of_ids_does_not_matter(connection, put, find):
    put("vin_candidates", vin_candidateid=guid(1), _vin_developerid_value=guid(10).upper())
    put("accounts", accountid=guid(10), _parentaccountid_value=guid(11).upper())
    put("accounts", accountid=guid(11).upper(), _parentaccountid_value=guid(12).upper())

    references = find()

    assert keys(connection, references.unlinked("accounts")) == []
    new, known = references.list_unasked("accounts")
    assert known == [guid(10)]
    assert guid(12) in new


def test_reaching_again_finds_new_rows(put, find):
    put("vin_candidates", vin_candidateid=guid(1), _vin_developerid_value=guid(10))
    references = find()
    put("accounts", accountid=guid(10), _primarycontactid_value=guid(20))

    references.reach()

    assert references.list_unasked("contacts") == ([guid(20)], [])


# What is gone


def test_gone_record_links_to_nothing(connection, put, find):
    put("vin_candidates", vin_candidateid=guid(1), _vin_developerid_value=guid(10))
    put("accounts", accountid=guid(10), _primarycontactid_value=guid(20))
    put("contacts", contactid=guid(20))
    references = find()

    references.mark_gone("accounts", [guid(10)])
    references.reach()

    assert keys(connection, references.gone("accounts")) == [guid(10)]
    assert keys(connection, references.unlinked("contacts")) == [guid(20)]


def test_gone_record_is_not_unlinked(connection, put, find):
    put("accounts", accountid=guid(10))
    put("accounts", accountid=guid(11))
    references = find()

    references.mark_gone("accounts", [guid(10)])

    assert keys(connection, references.unlinked("accounts")) == [guid(11)]


def test_forgotten_gone_record_links_again(connection, put, find):
    put("vin_candidates", vin_candidateid=guid(1), _vin_developerid_value=guid(10))
    put("accounts", accountid=guid(10), _primarycontactid_value=guid(20))
    put("contacts", contactid=guid(20))
    references = find()
    references.mark_gone("accounts", [guid(10)])

    references.forget_gone("accounts")
    references.reach()

    assert keys(connection, references.gone("accounts")) == []
    assert keys(connection, references.unlinked("contacts")) == []


def test_new_references_start_empty(connection, put, find):
    put("vin_candidates", vin_candidateid=guid(1), _vin_developerid_value=guid(10))
    references = find()
    references.mark_asked("accounts", [guid(10)])
    references.mark_gone("accounts", [guid(10)])

    again = find()

    assert again.list_unasked("accounts") == ([guid(10)], [])
