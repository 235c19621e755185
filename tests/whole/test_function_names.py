"""Entity sets that are named as SQLite's own functions are: their tables hide the functions."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import World, insert

from dataverse_sync import EntityConfig
from dataverse_sync.commands.check import run_check
from dataverse_sync.emulator import Column, Table
from dataverse_sync.redaction import Redactor
from dataverse_sync.sync.verification import VerifyOptions, run_verify

NAMES = [
    "json_each",
    "json_tree",
    "JSONB_each",
    "pragma_table_info",
    "pragma_table_xinfo",
    "pragma_table_list",
    "pragma_index_list",
    "pragma_integrity_check",
    "json",
    "temp",
    "main",
    "value",
    "part",
    "rowid",
]


def make_table(name: str, tracked: bool) -> Table:
    logical = f"vin_{name.lower()}"
    columns = [Column("vin_name", "String")]
    return Table(logical, name, f"{logical}id", columns, change_tracking=tracked)


@pytest.mark.parametrize("tracked", [False, True])
def test_tables_named_as_functions_stay_mirrors(make_world: Any, tracked: bool) -> None:
    world: World = make_world([make_table(name, tracked) for name in NAMES])
    entities = [EntityConfig(name) for name in NAMES]
    ids = {
        name: insert(world.emulator, name, [{"vin_name": str(n)} for n in range(12)])
        for name in NAMES
    }

    assert world.sync(entities).ok
    for name in NAMES:
        world.wait(1)
        world.emulator.update(name, ids[name][0], {"vin_name": "changed"})
        world.emulator.delete(name, ids[name][1])
        insert(world.emulator, name, [{"vin_name": "new"}])
    world.wait()

    for options in ({}, {"full": True}, {}):
        report = world.sync(entities, **options)
        assert report.ok, [entity.error for entity in report.failed]
        assert world.is_mirror(*NAMES)
    found = run_verify(world.config(), entities, VerifyOptions(), only=(), redactor=Redactor())
    assert found.ok
    checked = run_check(world.config(), entities, (), Redactor())
    assert [it.text for it in checked if it.result == "failure"] == []


def test_returned_keys_found_beside_table_json_each(make_world: Any) -> None:
    world: World = make_world([make_table("json_each", False)])
    insert(world.emulator, "json_each", [{"vin_name": str(n)} for n in range(12)])
    entities = [EntityConfig("json_each")]
    world.sync(entities)
    # A row that the service lacks: the sums differ, so that the keys are looked up.
    world.execute("INSERT INTO json_each (vin_json_eachid, json_response) VALUES ('x', '{}')")

    report = world.sync(entities, full=True)

    assert report.ok
    assert report.totals.deleted == 1
    assert world.is_mirror("json_each")
