"""Which table a lookup points to: asked for where nothing else tells it, kept, gone by, shown."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import ACCOUNTS, CONTACTS, PRODUCTS, World, insert

from dataverse_sync import EntityConfig
from dataverse_sync.commands.labels import run_labels
from dataverse_sync.dataverse.odata import LOOKUP_TARGET
from dataverse_sync.emulator import Column, Fault, Table
from dataverse_sync.model import Column as LockedColumn
from dataverse_sync.model import Entity
from dataverse_sync.redaction import Redactor

NOTES = Table(
    "vin_note",
    "vin_notes",
    "vin_noteid",
    [
        Column("vin_name", "String"),
        Column("vin_aboutid", "Customer", targets=("account", "contact")),
        Column("ownerid", "Owner", targets=("systemuser", "team")),
        Column("owninguser", "Lookup", targets=("systemuser",)),
        Column("owningteam", "Lookup", targets=("team",)),
    ],
)
TABLES = [NOTES, PRODUCTS, ACCOUNTS, CONTACTS]
ENTITIES = [
    EntityConfig("vin_notes"),
    EntityConfig("vin_products"),
    EntityConfig("accounts", filtered=True),
    EntityConfig("contacts", filtered=True),
]
NOTES_ONLY = ENTITIES[:1]
USER, TEAM = "11111111-0000-4000-8000-000000000001", "22222222-0000-4000-8000-000000000002"
ABOUT = f"_vin_aboutid_value@{LOOKUP_TARGET}"


@pytest.fixture
def notes(make_world: Any) -> World:
    """Eight notes about accounts and contacts in turn, owned by a user or a team."""
    world: World = make_world(TABLES)
    emulator = world.emulator
    accounts = insert(emulator, "accounts", [{"name": str(n)} for n in range(4)])
    contacts = insert(emulator, "contacts", [{"fullname": str(n)} for n in range(4)])
    about = [key for pair in zip(accounts, contacts, strict=True) for key in pair]
    owners = [{"ownerid": USER, "owninguser": USER}, {"ownerid": TEAM, "owningteam": TEAM}]
    records = [
        {"vin_name": f"{n}", "vin_aboutid": key, **owners[n % 2]} for n, key in enumerate(about)
    ]
    insert(emulator, "vin_notes", records)
    insert(emulator, "vin_products", [{"vin_name": "plain"}])
    return world


def targets(world: World) -> list[str | None]:
    rows = world.query("SELECT json_response FROM vin_notes ORDER BY vin_name")
    return [json.loads(text).get(ABOUT) for (text,) in rows]


def forget_targets(world: World) -> None:
    """Make the rows those that an earlier version of the program stored."""
    for key, text in world.source("vin_notes").items():
        sql = "UPDATE vin_notes SET json_response = ?, sync_time = 'then' WHERE vin_noteid = ?"
        world.execute(sql, text.decode(), key)


def test_open_lookups_are_those_the_record_leaves_open() -> None:
    def is_open(*names: str, gone: bool = False) -> bool:
        owner = LockedColumn("_ownerid_value", "TEXT", ("systemuser", "team"), gone)
        more = [LockedColumn(name, "TEXT", ("account",)) for name in names]
        return bool(Entity("notes", "noteid", (owner, *more), "metadata").open_lookups)

    assert is_open()
    assert is_open("_owninguser_value")
    assert not is_open("_owninguser_value", "_owningteam_value")
    assert not is_open(gone=True)


def test_targets_asked_for_on_pages_of_open_lookups_only(notes: World) -> None:
    assert notes.sync(ENTITIES).ok

    asked = {
        (name, LOOKUP_TARGET in request.prefer)
        for name in ("vin_notes", "vin_products", "accounts", "contacts")
        for kind in ("data", "thin", "delta")
        for request in notes.asked(name, kind)
    }
    assert asked == {
        ("vin_notes", True), ("vin_products", False), ("accounts", False), ("contacts", True)
    }  # fmt: skip
    assert len(notes.asked("vin_notes")) == 2
    assert targets(notes) == ["account", "contact"] * 4


def test_ids_asked_for_in_their_own_table(notes: World) -> None:
    notes.sync(ENTITIES)

    for kind in ("data", "thin"):
        asked = [one for name in ("accounts", "contacts") for one in notes.asked(name, kind)]
        assert sum(one.query["$filter"].count(" eq ") for one in asked) == 8
        assert sum(one.records for one in asked) == 8
        notes.sync(ENTITIES)
    forget_targets(notes)
    report = notes.sync(ENTITIES)

    assert report.ok
    assert (len(notes.copy("accounts")), len(notes.copy("contacts"))) == (4, 4)
    asked = [one for name in ("accounts", "contacts") for one in notes.asked(name, "data")]
    assert sum(one.query["$filter"].count(" eq ") for one in asked) == 8  # in the other table


def test_upgrade_rewrites_nothing_and_full_annotates(notes: World) -> None:
    notes.emulator.insert("vin_notes", {"vin_name": "new"})  # within the overlap
    notes.sync(ENTITIES)
    forget_targets(notes)
    before = notes.rows()["vin_notes"]

    report = notes.sync(ENTITIES)

    assert (report.totals.updated, report.totals.added) == (0, 0)
    assert report.totals.unchanged >= 1
    assert notes.rows()["vin_notes"] == before

    report = notes.sync(ENTITIES, full=True)

    assert (report.totals.updated, report.totals.added, report.totals.unchanged) == (0, 0, 18)
    assert targets(notes) == [*["account", "contact"] * 4, None]
    assert {row[0] for row in notes.query("SELECT sync_time FROM vin_notes")} == {"then"}
    notes.wait()
    assert notes.sync(NOTES_ONLY, full=True).totals.unchanged == 9


def test_changed_record_is_updated_with_its_targets(notes: World) -> None:
    notes.sync(NOTES_ONLY)
    forget_targets(notes)
    notes.wait()
    key = min(notes.emulator.rows("vin_notes"))
    notes.emulator.update("vin_notes", key, {"vin_name": "9"})

    assert notes.sync(NOTES_ONLY).totals.updated == 1
    assert [one for one in targets(notes) if one] in (["account"], ["contact"])


@pytest.mark.parametrize("status", [400, 500, 501])
def test_refused_targets_are_left_out(
    notes: World, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "dataverse_sync.dataverse.transport.Retries.get_backoff_time", lambda _: 0.0
    )

    def refuse(request: Any) -> None:
        if LOOKUP_TARGET in request.prefer:
            notes.emulator.control.fault(Fault("status", status=status, code="0x80048d0b"))

    notes.emulator.control.on_request = refuse

    assert notes.sync(ENTITIES).ok
    assert notes.copy("vin_notes") == notes.source("vin_notes")
    assert json.loads(notes.state("vin_notes", "asked_how"))["targets"] is False

    assert notes.sync(ENTITIES, full=True).totals.unchanged == 17
    assert not any(LOOKUP_TARGET in request.prefer for request in notes.asked())


def test_view_shows_type_of_each_lookup(notes: World) -> None:
    notes.sync(ENTITIES)
    notes.execute("UPDATE vin_notes SET json_response = 'damaged' WHERE vin_name = '7'")
    run_labels(notes.config(), ENTITIES, [], Redactor(), lambda _: None)

    rows = notes.query(
        "SELECT vin_aboutid_type, vin_aboutid_name, ownerid_type, owninguser_type, owningteam_type"
        " FROM vin_notes_labelled ORDER BY vin_name"
    )
    assert rows[0] == ("account", "0", "systemuser", "systemuser", None)
    assert rows[1] == ("contact", "0", "team", None, "team")
    assert rows[7] == (None, "3", "team", None, "team")
