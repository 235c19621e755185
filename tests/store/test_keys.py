"""Foreign keys and indexes of a table: which are declared, how they are named."""

from __future__ import annotations

from typing import Any

import pytest

from dataverse_sync.model import Column, Entity
from dataverse_sync.store import keys
from dataverse_sync.store.keys import make_indexes, with_keys
from dataverse_sync.store.tables import EntityTable, ForeignKey, build_table


def entity(name: str, key: str, *columns: Column, **more: Any) -> Entity:
    values = {"source": "metadata", "logical_name": name.removesuffix("s"), **more}
    return Entity(name, key, (Column(key, "TEXT"), *columns), **values)


def lookup(name: str, *targets: str) -> Column:
    return Column(f"_{name}_value", "TEXT", targets)


ACCOUNTS = entity(
    "accounts",
    "accountid",
    lookup("parent", "account"),
    lookup("contact", "contact"),
    lookup("owner", "contact", "team"),
    lookup("currency", "transactioncurrency"),
    Column("_was_value", "TEXT", ("contact",), gone=True),
)
CONTACTS = entity("contacts", "contactid", lookup("employer", "account"))
LINKS = entity(
    "links",
    "linkid",
    Column("contactid", "TEXT"),
    Column("accountidone", "TEXT"),
    Column("accountidtwo", "TEXT"),
    Column("teamid", "TEXT"),
    Column("name", "TEXT"),
    is_intersect=True,
)
GUESSED = entity(
    "guesses", "guessid", lookup("contact"), Column("contactid", "TEXT"),
    source="sample", logical_name=None,
)  # fmt: skip
ENTITIES = [ACCOUNTS, CONTACTS, LINKS, GUESSED]


def declared(connection: Any, name: str) -> list[tuple[str, str, str]]:
    """The foreign keys of a table: column, table, its column."""
    rows = connection.exec_driver_sql(f"PRAGMA foreign_key_list({name})").mappings()
    return sorted((row["from"], row["table"], row["to"]) for row in rows)


@pytest.mark.parametrize("order", [1, -1])
def test_one_configured_target_is_foreign_key(connection, order):
    with connection.begin():
        for made in ENTITIES[::order]:
            with_keys(build_table(made), ENTITIES).create(connection)

    assert declared(connection, "accounts") == [
        ("_contact_value", "contacts", "contactid"),
        ("_parent_value", "accounts", "accountid"),
    ]
    assert declared(connection, "contacts") == [("_employer_value", "accounts", "accountid")]
    assert declared(connection, "links") == [
        ("accountidone", "accounts", "accountid"),
        ("accountidtwo", "accounts", "accountid"),
        ("contactid", "contacts", "contactid"),
    ]
    assert declared(connection, "guesses") == []


def test_key_of_several_tables_is_not_guessed(connection):
    tasks = [entity(name, "activityid") for name in ("tasks", "letters")]
    links = entity("links", "linkid", Column("activityid", "TEXT"), is_intersect=True)

    with connection.begin():
        with_keys(build_table(links), [links, *tasks]).create(connection)

    assert declared(connection, "links") == []


def make(connection: Any, made: Entity) -> EntityTable:
    table = build_table(made)
    table.table.create(connection)
    return table


def test_dates_are_indexed(connection):
    with connection.begin():
        both = make(
            connection,
            entity("both", "id", Column("modifiedon", "TEXT"), Column("createdon", "TEXT")),
        )
        neither = make(connection, entity("neither", "id", Column("overriddencreatedon", "TEXT")))

        assert make_indexes(connection, both, []) == ["idx_both_modifiedon", "idx_both_createdon"]
        assert make_indexes(connection, neither, []) == []


def test_both_sides_of_junction_are_indexed(connection):
    with connection.begin():
        names = make_indexes(connection, make(connection, LINKS), [LINKS])

    assert sorted(names) == [
        "idx_links_accountidone",
        "idx_links_accountidtwo",
        "idx_links_contactid",
        "idx_links_teamid",
    ]


def test_taken_index_name_gets_number(connection):
    with connection.begin():
        teams = make(connection, entity("Teams", "teamid", lookup("Lead", "contact")))
        connection.exec_driver_sql("CREATE TABLE IDX_TEAMS__LEAD_VALUE (x)")

        names = make_indexes(connection, teams, ENTITIES)

    assert names == ["idx_Teams__Lead_value_2"]


@pytest.mark.parametrize(
    ("index", "is_used"),
    [
        ("(_employer_value, contactid)", True),
        ("(contactid, _employer_value)", False),
        ("(_employer_value) WHERE _employer_value > 'x'", False),
        ("(_employer_value COLLATE NOCASE)", False),
        ("(lower(_employer_value))", False),
    ],
)
def test_index_of_others_is_enough(connection, index, is_used):
    with connection.begin():
        contacts = make(connection, CONTACTS)
        connection.exec_driver_sql(f"CREATE INDEX mine ON contacts {index}")

        names = make_indexes(connection, contacts, ENTITIES)

    assert names == ([] if is_used else ["idx_contacts__employer_value"])


def test_large_table_sorted_beside_keeps_cache(connection, monkeypatch):
    monkeypatch.setattr(keys, "_LARGE", -1)
    with connection.begin():
        contacts = make(connection, CONTACTS)
        before = connection.exec_driver_sql("PRAGMA cache_size").scalar()

        names = make_indexes(connection, contacts, ENTITIES)

        assert names == ["idx_contacts__employer_value"]
        assert connection.exec_driver_sql("PRAGMA threads").scalar() > 0
        assert connection.exec_driver_sql("PRAGMA cache_size").scalar() == before


def test_foreign_keys_of_others_are_kept(connection):
    theirs = [
        ForeignKey(("_owner_value",), "contacts", ("contactid",), on_delete="CASCADE"),
        ForeignKey(("_parent_value",), "elsewhere", ("x",)),
        ForeignKey(("dropped",), "contacts", ("contactid",)),
    ]

    with connection.begin():
        with_keys(build_table(ACCOUNTS), ENTITIES, theirs).create(connection)

    assert declared(connection, "accounts") == [
        ("_contact_value", "contacts", "contactid"),
        ("_owner_value", "contacts", "contactid"),
        ("_parent_value", "accounts", "accountid"),
    ]
