"""A sync makes labels, the data dictionary and the labelled views by itself, when they are due."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from conftest import World, insert

from dataverse_sync import EntityConfig
from dataverse_sync.commands.labels import run_labels
from dataverse_sync.dataverse.descriptions import ColumnDescription, describe_columns
from dataverse_sync.emulator import Column, Fault, Table
from dataverse_sync.moments import to_text
from dataverse_sync.redaction import Redactor
from dataverse_sync.store.environment import Environment
from dataverse_sync.sync.labelling import is_due

NOW = datetime(2026, 11, 28, tzinfo=UTC)
TRIALS = Table(
    "vin_trial",
    "vin_trials",
    "vin_trialid",
    [
        Column("vin_name", "String"),
        Column("vin_phase", "Picklist", options={1: "One", 2: "Two"}),
        Column("vin_open", "Boolean"),
        Column("vin_begins", "DateTime", date_only=True),
        Column("vin_cost", "Money", secured=True),
        Column("vin_sponsorid", "Customer", targets=("vin_sponsor", "vin_trial")),
    ],
)
SPONSORS = Table("vin_sponsor", "vin_sponsors", "vin_sponsorid", [Column("vin_name", "String")])
ENTITIES = [EntityConfig("vin_trials"), EntityConfig("vin_sponsors")]


@pytest.fixture
def world(make_world: Any) -> World:
    made: World = make_world([TRIALS, SPONSORS])
    (sponsor,) = insert(made.emulator, "vin_sponsors", [{"vin_name": "Litware"}])
    trial = {"vin_name": "T", "vin_phase": 2, "vin_open": True, "vin_sponsorid": sponsor}
    insert(made.emulator, "vin_trials", [trial])
    made.wait()
    return made


def sync(world: World, **options: Any) -> int:
    """Run a sync; return how many requests it made for labels."""
    assert world.sync(ENTITIES, **{"labels": True, **options}).ok
    asked = [one.target for one in world.emulator.log]
    return sum("stringmaps" in one or "expand=Attributes&" in f"{one}&" for one in asked)


def show(world: World) -> list[Any]:
    return world.query(
        "SELECT vin_phase_label, vin_open_label, vin_sponsorid_name FROM vin_trials_labelled"
    )


def test_first_sync_labels_and_later_ones_ask_nothing(world: World) -> None:
    assert sync(world) > 0
    assert show(world) == [("Two", "Yes", "Litware")]
    before = world.query("SELECT * FROM _choices"), world.query("SELECT * FROM _columns")

    assert sync(world) == 0

    assert (world.query("SELECT * FROM _choices"), world.query("SELECT * FROM _columns")) == before
    assert [one.target for one in world.asked(kind="metadata")] != []  # of the schema alone


def test_labels_are_made_anew_after_a_change_of_the_schema(world: World) -> None:
    sync(world)
    world.emulator.add_column("vin_trials", Column("vin_site", "String"))

    assert sync(world) > 0
    assert sync(world) == 0  # a standing difference is no change


def test_no_labels_asks_nothing(world: World) -> None:
    assert sync(world, labels=False) == 0
    assert world.query("SELECT name FROM sqlite_master WHERE name = '_columns'") == []
    assert sync(world) > 0


@pytest.mark.parametrize(
    ("made_at", "due"),
    [
        (None, True),
        (NOW, False),
        (NOW - timedelta(days=6.9), False),
        (NOW - timedelta(days=7), True),
        (NOW + timedelta(days=1), True),
    ],
)
def test_labels_last_seven_days(made_at: datetime | None, due: bool) -> None:
    text = to_text(made_at) if made_at else None

    assert is_due(Environment(None, "https://a.example/", labelled_at=text), NOW) is due
    assert is_due(None, NOW)


def test_failure_of_labels_only_warns(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.emulator.control.fault(Fault("status", "stringmaps", times=99, status=500))

    assert sync(world) > 0
    assert any("labels cannot be made" in one.getMessage() for one in caplog.records)
    world.emulator.control.faults.clear()
    assert sync(world) > 0
    assert show(world) == [("Two", "Yes", "Litware")]


def test_language_that_was_chosen_stays(world: World) -> None:
    sync(world)
    world.execute("UPDATE _sync_environment SET labelled_at = NULL, language = 4711")
    sync(world)
    assert world.query("SELECT language FROM _sync_environment") == [(1033,)]  # there is no other

    run_labels(world.config(), ENTITIES, (), Redactor(), print, 1033)
    assert sync(world) == 0


def test_dictionary_tells_what_columns_mean(world: World) -> None:
    sync(world)
    names = "type, format, date_behavior, precision, targets, is_required, is_secured"

    query = f"SELECT column_name, {names} FROM _columns WHERE entity_name = ? ORDER BY position"
    rows = world.query(query, "vin_trials")

    told = {row[0]: row[1:] for row in rows}
    columns = [row[1] for row in world.query("PRAGMA table_info(vin_trials)")]
    special = ("sync_time", "valid_from", "json_response")
    assert list(told) == [name for name in columns if name not in special]
    assert told["vin_name"] == ("String", None, None, None, None, 0, 0)
    assert told["vin_trialid"][5] == 1
    assert told["vin_begins"] == ("DateTime", "DateOnly", "DateOnly", None, None, 0, 0)
    assert told["modifiedon"][:3] == ("DateTime", "DateAndTime", "UserLocal")
    assert told["vin_cost"] == ("Money", None, None, 4, None, 0, 1)
    assert told["_vin_sponsorid_value"][0] == "Customer"
    assert json.loads(told["_vin_sponsorid_value"][4]) == ["vin_sponsor", "vin_trial"]
    labels = dict(world.query("SELECT column_name, display_name FROM _columns"))
    assert labels["vin_phase"] == "Phase"


def test_older_query_is_asked_where_the_whole_is_refused(world: World) -> None:
    fault = Fault("status", r"expand=Attributes(&|$)", times=99, status=400)
    world.emulator.control.fault(fault)

    sync(world)

    assert show(world) == [("Two", "Yes", "Litware")]


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [
        ({}, ColumnDescription(type="String")),
        ({"Format": "Email"}, ColumnDescription(type="String", format="Email")),
        ({"FormatName": {"Value": "Json"}}, ColumnDescription(type="String", format="Json")),
        ({"Precision": "x", "Targets": 1}, ColumnDescription(type="String")),
        (
            {"DisplayName": {"LocalizedLabels": [{"Label": "Nom"}], "UserLocalizedLabel": None}},
            ColumnDescription(type="String", display_name="Nom"),
        ),
        (
            {"RequiredLevel": {"Value": "ApplicationRequired"}, "IsSecured": True},
            ColumnDescription(type="String", is_required=True, is_secured=True),
        ),
    ],
)
def test_columns_are_described(attribute: dict[str, Any], expected: ColumnDescription) -> None:
    base = {"LogicalName": "a", "AttributeType": "String", "IsValidODataAttribute": True}
    base["AttributeTypeName"] = {"Value": "StringType"}

    found = dict(describe_columns([{**base, **attribute}, {"LogicalName": 1}, None]))

    assert found == {"a": expected}


def test_activity_parties_are_a_table_like_others(make_world: Any) -> None:
    parties = Table(
        "activityparty",
        "activityparties",
        "activitypartyid",
        [
            Column("activityid", "Lookup", targets=("vin_trial",)),
            Column("partyid", "Lookup", targets=("vin_sponsor", "vin_trial")),
            Column("participationtypemask", "Picklist", options={1: "Sender", 2: "To Recipient"}),
            Column("addressused", "String"),
        ],
        createdon=False,
        modifiedon=False,
    )
    world: World = make_world([TRIALS, SPONSORS, parties])
    entities = [*ENTITIES, EntityConfig("activityparties")]
    (sponsor,) = insert(world.emulator, "vin_sponsors", [{"vin_name": "Litware"}])
    (trial,) = insert(world.emulator, "vin_trials", [{"vin_name": "T"}])
    known = {"activityid": trial, "partyid": sponsor, "participationtypemask": 1}
    ids = world.emulator.insert_many(
        "activityparties", [known, {"addressused": "nobody@example.com"}, known]
    )
    assert world.sync(entities, labels=True).ok
    world.emulator.update("activityparties", ids[1], {"participationtypemask": 2})
    world.emulator.delete("activityparties", ids[2])

    assert world.sync(entities, labels=True).ok

    assert world.is_mirror("activityparties")
    query = (
        "SELECT participationtypemask_label, partyid_name, addressused "
        "FROM activityparties_labelled ORDER BY participationtypemask"
    )
    assert world.query(query) == [
        ("Sender", "Litware", None),
        ("To Recipient", None, "nobody@example.com"),
    ]
