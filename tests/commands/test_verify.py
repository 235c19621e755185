"""``verify`` over the emulator: what is altered, removed or added by hand is found and mended."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import pytest
from conftest import ENTITIES, OLD, World, fill, insert
from emulator_caller import Caller

from dataverse_sync import EntityConfig
from dataverse_sync.commands.verify import format_verification, to_document
from dataverse_sync.emulator import Column, Fault, LoggedRequest, Table
from dataverse_sync.errors import ConfigError, LockedError, StorageError
from dataverse_sync.redaction import Redactor
from dataverse_sync.store.run_lock import hold
from dataverse_sync.sync.entity_verification import EntityFindings
from dataverse_sync.sync.verification import Verification, VerifyOptions, run_verify

ALL = ["vin_candidates", "vin_products", "vin_vin_candidate_accountset", "accounts", "contacts"]
KEYS = {
    "vin_candidates": "vin_candidateid",
    "vin_products": "vin_productid",
    "vin_vin_candidate_accountset": "vin_vin_candidate_accountid",
    "accounts": "accountid",
    "contacts": "contactid",
}


def verify(
    world: World, *only: str, entities: Sequence[EntityConfig] = ENTITIES, **options: Any
) -> Verification:
    world.emulator.log.clear()
    about: dict[str, Any] = {"only": only, "redactor": Redactor()}
    if "on_event" in options:
        about["on_event"] = options.pop("on_event")
    return run_verify(world.config(), entities, VerifyOptions(**options), **about)


def check_of(found: Verification, name: str) -> EntityFindings:
    return next(check for check in found.entities if check.entity == name)


def a_key(world: World, name: str) -> str:
    key: str = world.query(f"SELECT {KEYS[name]} FROM {name} ORDER BY 1")[0][0]
    return key


def test_a_fresh_copy_agrees(world: World) -> None:
    world.sync()

    found = verify(world)

    assert found.ok
    assert found.integrity == "ok"
    assert [(check.entity, check.rows, check.differences) for check in found.entities] == [
        ("vin_candidates", 12, 0),
        ("vin_products", 8, 0),
        ("vin_vin_candidate_accountset", 1, 0),
        ("accounts", 2, 0),
        ("contacts", 1, 0),
    ]


def test_only_keys_and_versions_are_read(world: World) -> None:
    world.sync()

    verify(world)

    assert world.asked(kind="data") == []
    assert len(world.asked(kind="thin")) > 0


@pytest.mark.parametrize("name", ALL)
def test_a_row_removed_by_hand_is_missing_until_repaired(world: World, name: str) -> None:
    world.sync()
    before = world.rows()
    key = a_key(world, name)
    world.execute(f"DELETE FROM {name} WHERE {KEYS[name]} = ?", key)

    found = verify(world)

    assert not found.ok
    assert check_of(found, name).missing == [key]
    assert [c.entity for c in found.entities if c.differences] == [name]

    repaired = verify(world, repair=True)

    assert repaired.ok
    assert check_of(repaired, name).repaired == 1
    assert {k: [row[:-3] for row in rows] for k, rows in world.rows().items()} == {
        k: [row[:-3] for row in rows] for k, rows in before.items()
    }
    assert verify(world).ok


@pytest.mark.parametrize("name", ALL)
def test_a_row_added_by_hand_is_extra_or_unlinked_until_repaired(world: World, name: str) -> None:
    world.sync()
    key, new = a_key(world, name), "11111111-2222-3333-4444-555555555555"
    world.execute(f"CREATE TABLE copy AS SELECT * FROM {name} WHERE {KEYS[name]} = ?", key)
    world.execute(
        f"UPDATE copy SET {KEYS[name]} = ?, json_response = replace(json_response, ?, ?)",
        new,
        key,
        new,
    )
    world.execute(f"INSERT INTO {name} SELECT * FROM copy")
    world.execute("DROP TABLE copy")

    found = verify(world)

    check = check_of(found, name)
    assert not found.ok
    assert check.extra + check.unlinked == [new]

    repaired = verify(world, repair=True)

    assert repaired.ok
    assert world.query(f"SELECT count(*) FROM {name} WHERE {KEYS[name]} = ?", new) == [(0,)]
    assert new in world.removed(name)
    assert verify(world).ok


@pytest.mark.parametrize("name", ["vin_candidates", "vin_products", "accounts", "contacts"])
def test_a_row_altered_by_hand_is_found_and_mended(world: World, name: str) -> None:
    world.sync()
    before = world.rows()
    key = a_key(world, name)
    world.execute(f"UPDATE {name} SET modifiedon = 'yesterday' WHERE {KEYS[name]} = ?", key)

    found = verify(world)

    assert check_of(found, name).altered == [key]
    assert check_of(found, name).stale == []

    assert verify(world, repair=True).ok
    assert {k: [row[:-3] for row in rows] for k, rows in world.rows().items()} == {
        k: [row[:-3] for row in rows] for k, rows in before.items()
    }


def test_json_altered_by_hand_is_found(world: World) -> None:
    world.sync()
    key = a_key(world, "vin_candidates")
    world.execute(
        "UPDATE vin_candidates SET json_response = replace(json_response, 'Candidate', 'Other') "
        "WHERE vin_candidateid = ?",
        key,
    )

    found = verify(world)

    assert check_of(found, "vin_candidates").altered == [key]


def test_a_record_of_another_version_is_stale(world: World) -> None:
    world.sync()
    world.wait()
    key = world.emulator.ids("vin_candidates")[0]
    world.emulator.update("vin_candidates", key, {"vin_name": "Backdated"}, modifiedon=OLD)

    found = verify(world)

    assert check_of(found, "vin_candidates").stale == [key]

    assert verify(world, repair=True).ok
    assert world.is_mirror("vin_candidates")


def test_repair_fetches_exactly_what_differs(world: World) -> None:
    world.sync()
    key = a_key(world, "vin_candidates")
    world.execute("DELETE FROM vin_candidates WHERE vin_candidateid = ?", key)

    verify(world, repair=True)

    (asked,) = world.asked(kind="data")
    assert asked.records == 1
    assert key in asked.target


def test_what_changes_while_it_checks_is_no_difference(world: World) -> None:
    world.sync()
    world.wait()
    emulator = world.emulator

    def change(request: LoggedRequest) -> None:
        if request.kind == "thin" and request.entity_set == "vin_candidates":
            emulator.control.on_request = None
            emulator.clock.advance(2)
            emulator.update("vin_candidates", emulator.ids("vin_candidates")[-1], {"vin_name": "!"})
            emulator.insert("vin_candidates", {"vin_name": "New"})

    emulator.control.on_request = change
    found = verify(world)

    assert found.ok
    assert check_of(found, "vin_candidates").changed_meanwhile > 0


@pytest.mark.parametrize("kind", ["drop_last_record", "repeat_page"])
@pytest.mark.parametrize("page", [0, 1])
def test_a_page_that_the_service_spoils_turns_the_check_red(
    world: World, kind: str, page: int
) -> None:
    world.emulator.control.fault(Fault(kind, match=r"GET .*/vin_candidates\?", skip=page))
    world.sync()
    world.emulator.control.faults.clear()

    assert not verify(world, "vin_candidates").ok


def test_two_pages_that_the_service_swaps_turn_the_check_red(world: World) -> None:
    caller = Caller(world.emulator)
    caller.sign_in()
    pages = list(caller.pages("vin_candidates?$orderby=vin_candidateid", "odata.maxpagesize=5"))
    caller.session.close()
    for number, page in ((2, pages[2]), (3, pages[1])):
        match = rf"/vin_candidates\?.*pagenumber=%22{number}%22"
        world.emulator.control.fault(Fault("body", match=match, body=json.dumps(page), status=200))

    world.sync()
    world.emulator.control.faults.clear()

    assert [len(page["value"]) for page in pages] == [5, 5, 2]
    assert len(check_of(verify(world, "vin_candidates"), "vin_candidates").missing) == 5


def test_a_page_of_the_check_that_is_spoilt_is_asked_for_again(world: World) -> None:
    world.sync()
    world.emulator.control.fault(
        Fault("drop_last_record", match=r"GET .*/vin_candidates\?", times=1)
    )

    assert verify(world, "vin_candidates").ok


def test_an_entity_that_cannot_be_read_is_told(world: World) -> None:
    world.sync()
    world.emulator.remove_table("vin_products")

    found = verify(world)

    assert not found.ok
    assert "404" in str(check_of(found, "vin_products").error)
    assert check_of(found, "vin_candidates").ok


def test_an_entity_never_synced_is_told(world: World) -> None:
    world.sync(ENTITIES[:1])

    found = verify(world)

    assert "never synced" in str(check_of(found, "vin_products").error)


def test_ids_that_dataverse_does_not_return_are_told_by_table_and_column(world: World) -> None:
    insert(
        world.emulator,
        "vin_candidates",
        [{"vin_developerid": "99999999-2222-3333-4444-555555555555"}],
    )
    world.sync()

    found = verify(world)

    assert found.ok
    assert check_of(found, "accounts").dangling == {"vin_candidates._vin_developerid_value": 1}


def test_repair_holds_to_the_guard(make_world: Any) -> None:
    world: World = make_world()
    fill(world.emulator, candidates=120)
    world.sync()
    for key in world.emulator.ids("vin_candidates")[:70]:
        world.emulator.delete("vin_candidates", key)

    refused = verify(world, "vin_candidates", repair=True)

    assert "70 of 120 rows would be removed" in str(check_of(refused, "vin_candidates").error)
    assert world.query("SELECT count(*) FROM vin_candidates") == [(120,)]

    assert verify(world, "vin_candidates", repair=True, allow_deletes=True).ok
    assert world.is_mirror("vin_candidates")


def test_nothing_is_extra_where_deletions_are_ignored(world: World) -> None:
    entities = [EntityConfig("vin_candidates", deletions="ignore")]
    world.sync(entities)
    world.emulator.delete("vin_candidates", world.emulator.ids("vin_candidates")[0])

    assert verify(world, entities=entities).ok


def test_without_repair_the_findings_alone_are_written(world: World) -> None:
    world.sync()
    world.execute("DELETE FROM vin_products")

    def dump() -> list[str]:
        with closing(sqlite3.connect(world.db_path)) as connection:
            return [line for line in connection.iterdump() if "_sync_verify" not in line]

    before = dump()
    verify(world)

    assert dump() == before


def test_what_was_found_is_kept(world: World) -> None:
    world.sync()
    gone = a_key(world, "vin_candidates")
    world.execute("DELETE FROM vin_candidates WHERE vin_candidateid = ?", gone)
    world.execute(
        "UPDATE vin_products SET vin_name = 'by hand' WHERE vin_productid IN "
        "(SELECT vin_productid FROM vin_products LIMIT 2)"
    )
    world.execute(
        "INSERT INTO contacts (contactid, sync_time, json_response) VALUES ('x', '', '{}')"
    )
    world.emulator.control.fault(Fault("status", match="accountset", status=403, times=99))
    query = (
        "SELECT entity_name, rows, missing, stale, surplus, altered, status FROM _sync_verify "
        "WHERE run_id = ? ORDER BY id"
    )
    last = "SELECT run_id FROM _sync_verify ORDER BY id DESC LIMIT 1"

    verify(world, repair=True)
    assert world.query(query, *world.query(last)[0]) == [
        ("vin_candidates", 11, 1, 0, 0, 0, "same"),
        ("vin_products", 8, 0, 0, 0, 2, "same"),
        ("vin_vin_candidate_accountset", 1, 0, 0, 0, 0, "failed"),
        ("accounts", 2, 0, 0, 0, 0, "same"),
        ("contacts", 2, 0, 0, 0, 1, "differs"),
    ]
    verify(world, "vin_products")
    assert world.query(query, *world.query(last)[0]) == [("vin_products", 8, 0, 0, 0, 0, "same")]
    assert len(world.query("SELECT DISTINCT run_id FROM _sync_verify")) == 2


def test_findings_that_cannot_be_kept_are_a_warning(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world.sync()

    def refuse(_: object) -> None:
        raise StorageError("attempt to write a readonly database")

    monkeypatch.setattr("dataverse_sync.store.sqlite.SqliteFile.open_writer", refuse)

    assert verify(world).ok
    assert "cannot be kept for status and report: attempt to write" in caplog.text


def test_repair_takes_the_run_lock(world: World) -> None:
    world.sync()

    with hold(world.db_path, world.emulator.clock.now()):
        assert verify(world).ok
        with pytest.raises(LockedError):
            verify(world, repair=True)


def test_without_a_database_there_is_nothing_to_verify(world: World) -> None:
    with pytest.raises(ConfigError, match="there is no database yet"):
        verify(world)


def test_numbers_that_sqlite_stores_otherwise_are_not_altered(make_world: Any) -> None:
    odd = Table(
        "vin_odd",
        "vin_odds",
        "vin_oddid",
        [Column("vin_big", "BigInt"), Column("vin_sum", "Decimal"), Column("vin_on", "Boolean")],
    )
    world: World = make_world([odd])
    insert(
        world.emulator,
        "vin_odds",
        [{"vin_big": 2**62 + 1, "vin_sum": "12345678901234567890.1234567890", "vin_on": True}],
    )
    world.sync([EntityConfig("vin_odds")])

    assert verify(world, entities=[EntityConfig("vin_odds")]).ok


def test_the_words_say_what_differs_with_examples(world: World) -> None:
    world.sync()
    world.execute("DELETE FROM vin_candidates")
    found = verify(world)

    lines = format_verification(found)

    assert lines[0] == "differs  vin_candidates: 0 rows, 12 missing"
    assert lines[1].startswith("           missing: ")
    assert lines[1].endswith(" and 7 more")
    assert "SQLite's integrity check: ok" in lines
    # What links to the accounts may be among what is missing, so none is called unlinked.
    assert lines[-1] == "4 tables agree, 1 do not"
    document = to_document(found)
    assert document["ok"] is False
    assert document["entities"][0]["differences"] == 12


def test_a_row_both_altered_and_unlinked_is_one_difference_and_is_mended(world: World) -> None:
    world.sync()
    new = "11111111-2222-3333-4444-555555555555"
    world.execute("INSERT INTO accounts (accountid, json_response) VALUES (?, '{}')", new)

    repaired = verify(world, repair=True)

    assert repaired.ok
    assert check_of(repaired, "accounts").differences == 1
    assert verify(world).ok
