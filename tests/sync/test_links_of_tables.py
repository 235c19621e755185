"""Foreign keys and indexes over whole runs: after a first sync, a kill, ``schema accept``."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import ENTITIES, LINK_SET, World

from dataverse_sync.commands import schema
from dataverse_sync.commands.labels import run_labels
from dataverse_sync.emulator import Column
from dataverse_sync.redaction import Redactor
from dataverse_sync.sync import copying

INDEXES = {
    "vin_candidates": {"idx_vin_candidates__vin_developerid_value"},
    "vin_products": set(),
    LINK_SET: {f"idx_{LINK_SET}_vin_candidateid", f"idx_{LINK_SET}_accountid"},
    "accounts": {"idx_accounts__primarycontactid_value", "idx_accounts__parentaccountid_value"},
    "contacts": set(),
}


def accept(world: World, *only: str, drop: bool = False) -> list[str]:
    told: list[str] = []
    schema.accept(world.config(), ENTITIES, only, Redactor(), drop=drop, tell=told.append)
    return told


def foreign_keys(world: World, name: str) -> set[tuple[str, str, str]]:
    """The foreign keys of a table: column, table, its column."""
    rows = world.query('SELECT "from", "table", "to" FROM pragma_foreign_key_list(?)', name)
    return {(*row,) for row in rows}


def indexes(world: World, name: str) -> set[str]:
    """The indexes of a table, but those of its key and its dates."""
    found = world.query("SELECT name FROM pragma_index_list(?) WHERE origin = 'c'", name)
    return {index for (index,) in found if not index.endswith(("_modifiedon", "_createdon"))}


def test_first_sync_declares_and_indexes_links(world: World) -> None:
    assert world.sync().ok

    assert {name: indexes(world, name) for name in INDEXES} == INDEXES
    assert foreign_keys(world, "accounts") == {
        ("_primarycontactid_value", "contacts", "contactid"),
        ("_parentaccountid_value", "accounts", "accountid"),
    }
    assert foreign_keys(world, LINK_SET) == {
        ("vin_candidateid", "vin_candidates", "vin_candidateid"),
        ("accountid", "accounts", "accountid"),
    }
    assert foreign_keys(world, "contacts") == set()
    plan = world.query(
        "EXPLAIN QUERY PLAN SELECT * FROM vin_candidates WHERE _vin_developerid_value = 'x'"
    )
    assert "USING INDEX idx_vin_candidates__vin_developerid_value" in plan[0][-1]


def test_target_not_configured_is_no_key(world: World) -> None:
    alone = ENTITIES[:3]

    assert world.sync(alone).ok

    assert foreign_keys(world, "vin_candidates") == set()
    assert indexes(world, "vin_candidates") == set()
    assert indexes(world, LINK_SET) == INDEXES[LINK_SET]


@pytest.mark.parametrize("table", ["vin_candidates", "contacts"])
def test_interrupted_indexing_is_done_by_next_run(
    world: World, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    make_indexes = copying.make_indexes

    def interrupt(connection: Any, made: Any, entities: Any) -> None:
        if made.name == table:
            raise KeyboardInterrupt
        make_indexes(connection, made, entities)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(copying, "make_indexes", interrupt)
        world.sync()

    assert world.state(table, "state") == "failed"
    assert world.sync().ok
    assert {name: indexes(world, name) for name in INDEXES} == INDEXES
    assert world.is_mirror("vin_candidates", "vin_products", LINK_SET)


def test_dropped_index_comes_back_by_accept_alone(world: World) -> None:
    world.sync()
    world.execute("DROP INDEX idx_accounts__primarycontactid_value")

    world.sync(full=True)

    assert indexes(world, "accounts") == {"idx_accounts__parentaccountid_value"}
    assert accept(world, "accounts", "contacts") == [
        "accounts: indexes made: idx_accounts__primarycontactid_value",
        "contacts: nothing to do",
    ]
    assert indexes(world, "accounts") == INDEXES["accounts"]


def test_accept_before_first_load_makes_no_index(world: World) -> None:
    world.sync()
    for name in INDEXES["accounts"]:
        world.execute(f"DROP INDEX {name}")
    world.execute("UPDATE _sync_state SET last_sync_time = NULL")

    assert accept(world, "accounts") == ["accounts: nothing to do"]

    assert world.sync().ok
    assert indexes(world, "accounts") == INDEXES["accounts"]


def test_dropped_table_is_indexed_when_made(world: World) -> None:
    world.sync()
    world.execute("DROP TABLE accounts")

    world.sync()

    assert indexes(world, "accounts") == INDEXES["accounts"]
    assert world.query("SELECT count(*) FROM pragma_index_list('accounts')") == [(5,)]


def make_old(world: World, name: str) -> None:
    """Take its foreign keys and indexes from a table, as if an older version had made it."""
    (columns,) = world.query(
        "SELECT group_concat(name || ' ' || type) FROM pragma_table_info(?)", name
    )[0]
    key = columns.partition(" ")[0]
    world.execute(f"CREATE TABLE old ({columns}, PRIMARY KEY ({key}))")
    world.execute(f"INSERT INTO old SELECT * FROM {name}")
    world.execute(f"DROP TABLE {name}")
    world.execute(f"ALTER TABLE old RENAME TO {name}")


def test_older_database_gets_indexes_then_keys(world: World) -> None:
    world.sync()
    declared = foreign_keys(world, "vin_candidates")
    make_old(world, "vin_candidates")
    assert world.sync().ok

    accept(world)

    assert indexes(world, "vin_candidates") == INDEXES["vin_candidates"]
    assert foreign_keys(world, "vin_candidates") == set()
    world.emulator.retype_column("vin_candidates", "vin_number", "String")
    accept(world)
    assert foreign_keys(world, "vin_candidates") == declared != set()
    assert indexes(world, "vin_candidates") == INDEXES["vin_candidates"]


def test_new_column_of_accept_is_foreign_key(world: World) -> None:
    world.sync()
    world.emulator.add_column(
        "vin_candidates", Column("vin_productid", "Lookup", targets=("vin_product",))
    )

    accept(world)

    assert ("_vin_productid_value", "vin_products", "vin_productid") in foreign_keys(
        world, "vin_candidates"
    )
    assert "idx_vin_candidates__vin_productid_value" in indexes(world, "vin_candidates")


def own_objects(world: World) -> list[Any]:
    return world.query("SELECT type, name, sql FROM sqlite_master WHERE name LIKE 'my%' ORDER BY 2")


def test_objects_of_others_survive_every_command(world: World) -> None:
    world.sync()
    for statement in (
        "CREATE INDEX my_index ON vin_candidates (vin_name COLLATE NOCASE) WHERE vin_number > 3",
        "CREATE UNIQUE INDEX my_key ON vin_candidates (vin_name)",
        "CREATE INDEX my_dose ON vin_candidates (vin_dose)",
        "CREATE TABLE my_notes (candidate REFERENCES vin_candidates (vin_candidateid))",
        "CREATE VIEW my_view AS SELECT vin_name FROM vin_candidates",
        "CREATE TRIGGER my_trigger AFTER INSERT ON vin_candidates "
        "BEGIN INSERT INTO my_notes VALUES (new.vin_candidateid); END",
        "ALTER TABLE vin_candidates ADD COLUMN _ownerid_value TEXT REFERENCES contacts",
    ):
        world.execute(statement)
    made = own_objects(world)
    world.emulator.add_column("vin_candidates", Column("ownerid", "Lookup", targets=("team",)))
    world.emulator.retype_column("vin_candidates", "vin_number", "String")

    world.sync(full=True)
    run_labels(world.config(), ENTITIES, (), Redactor(), lambda _: None)
    accept(world)
    accept(world)

    assert own_objects(world) == made
    assert world.query("SELECT * FROM my_notes") == []
    assert ("_ownerid_value", "contacts", "contactid") in foreign_keys(world, "vin_candidates")
    assert ("_vin_developerid_value", "accounts", "accountid") in foreign_keys(
        world, "vin_candidates"
    )
    assert indexes(world, "vin_candidates") - INDEXES["vin_candidates"] == {
        "my_index", "my_key", "my_dose"
    }  # fmt: skip
    world.emulator.drop_column("vin_candidates", "vin_dose")
    assert (
        "vin_candidates: my_dose is dropped, it cannot be made again (no such column: vin_dose)"
        in accept(world, drop=True)
    )
