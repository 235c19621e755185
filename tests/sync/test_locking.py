"""What is locked, guessed, failed or compared, by what becomes of the requests for metadata."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from conftest import CANDIDATES, CANDIDATES_ONLY, ENTITIES, PRODUCTS, World, insert

from dataverse_sync import EntityConfig
from dataverse_sync.commands import schema as schema_command
from dataverse_sync.emulator import Column, Fault, Table
from dataverse_sync.redaction import Redactor
from dataverse_sync.schema.lock import load_lock

METADATA = "GET .*EntityDefinitions"
PRODUCTS_METADATA = f"{METADATA}.*'vin_products'"
NAMES = [entity.name for entity in ENTITIES]
TWO = [EntityConfig("vin_candidates"), EntityConfig("vin_products")]
MANY = 10**6

PASSING: dict[str, Callable[[str], Fault]] = {
    **{
        str(status): lambda match, status=status: Fault("status", match, MANY, status=status)  # type: ignore[misc]
        for status in (413, 429, 503)
    },
    "connection lost": lambda match: Fault("reset", match, MANY),
    "cut short": lambda match: Fault("truncate", match, MANY),
    "not JSON": lambda match: Fault("body", match, MANY, body="<html></html>"),
    "no array": lambda match: Fault("body", match, MANY, body="{}"),
}


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "dataverse_sync.dataverse.transport.Retries.get_backoff_time"
    monkeypatch.setattr(name, lambda _: 0.0)


@pytest.fixture(params=PASSING.values(), ids=PASSING.keys())
def passing(request: pytest.FixtureRequest) -> Callable[[str], Fault]:
    return request.param  # type: ignore[no-any-return]


def fail(world: World, fault: Fault) -> None:
    world.emulator.control.faults[:] = [fault]


def mend(world: World) -> None:
    world.emulator.control.faults.clear()


def diff(world: World, entities: Any = ENTITIES) -> Any:
    return schema_command.get_drift(world.config(), entities, (), Redactor())


def accept(world: World, entities: Any = ENTITIES) -> list[str]:
    options: dict[str, Any] = {"drop": False, "tell": lambda _: None}
    return schema_command.accept(world.config(), entities, (), Redactor(), **options)


def tables(world: World) -> set[str]:
    return {name for (name,) in world.query("SELECT name FROM sqlite_master")} & {*NAMES}


# Metadata fails


def test_nothing_locked_while_metadata_fails(world: World, passing: Any) -> None:
    fail(world, passing(METADATA))

    report = world.sync()
    asked, samples = len(world.asked(kind="metadata")), world.asked()
    mend(world)
    after = world.sync()

    assert {entity.state for entity in report.entities} == {"failed"}
    assert samples == []
    assert asked <= 4 * 16
    for entity in report.entities:
        assert f"{entity.name}: its definition cannot be read, so its table is not made" in str(
            entity.error
        )
        assert "Run again" in str(entity.error)
    assert after.ok
    assert after.drift == ()
    lock = load_lock(world.schema_path)
    assert lock is not None
    assert {entity.source for entity in lock.values()} == {"metadata"}
    assert world.is_mirror("vin_candidates", "vin_products")


def test_no_file_or_table_while_metadata_fails(world: World) -> None:
    fail(world, Fault("status", METADATA, MANY, status=503))

    world.sync()
    world.sync()

    assert tables(world) == set()
    assert not world.schema_path.exists()
    assert world.query("SELECT DISTINCT state FROM _sync_state") == [("failed",)]
    assert world.query("SELECT count(*) FROM _schema_changes") == [(0,)]


def test_outage_of_metadata_costs_few_requests(world: World) -> None:
    fail(world, Fault("status", METADATA, MANY, status=503))

    world.sync()

    assert len(world.asked(kind="metadata")) == 6 + 4 * 2


def test_passing_failure_of_one_set_fails_it_alone(world: World, passing: Any) -> None:
    fail(world, passing(PRODUCTS_METADATA))

    first = world.sync()
    second = world.sync()
    mend(world)
    third = world.sync()

    for report in (first, second):
        assert [entity.name for entity in report.failed] == ["vin_products"]
    assert tables(world) == {*NAMES}
    assert world.is_mirror("vin_candidates", "vin_products")
    assert first.drift == second.drift == ()
    assert third.ok
    assert [str(item) for item in third.drift] == ["vin_products: new in the configuration"]


def test_failure_that_passes_costs_nothing(world: World) -> None:
    fail(world, Fault("status", METADATA, 5, status=503))

    assert world.sync().ok


@pytest.mark.parametrize("status", [400, 401, 403, 404, 501])
def test_refused_metadata_is_guessed_from_samples(
    make_world: Any, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    world: World = make_world([CANDIDATES, PRODUCTS])
    insert(world.emulator, "vin_candidates", [{"vin_name": "A"}])
    insert(world.emulator, "vin_products", [{"vin_name": "B"}])
    fail(world, Fault("status", METADATA, MANY, status=status))

    report = world.sync(TWO)

    assert report.ok
    assert world.is_mirror("vin_candidates", "vin_products")
    assert "metadata cannot be read, so new tables go by their first record" in caplog.text
    lock = load_lock(world.schema_path)
    assert lock is not None
    assert {entity.source for entity in lock.values()} == {"sample"}


def test_locked_entities_not_compared_on_failure(
    world: World, passing: Any, caplog: pytest.LogCaptureFixture
) -> None:
    world.sync()
    world.emulator.add_column("vin_candidates", Column("vin_new", "Integer"))
    insert(world.emulator, "vin_products", [{"vin_name": "new"}])
    fail(world, passing(METADATA))

    report = world.sync()

    assert report.ok
    assert report.drift == ()
    assert world.is_mirror("vin_products")
    assert "metadata cannot be read, so the schema was not compared" in caplog.text


@pytest.mark.parametrize("status", [400, 401, 403, 404, 501])
def test_locked_entities_not_compared_on_refusal(
    world: World, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    world.sync()
    world.emulator.add_column("vin_candidates", Column("vin_new", "Integer"))
    fail(world, Fault("status", METADATA, MANY, status=status))

    report = world.sync()

    assert report.ok
    assert report.drift == ()
    assert "metadata cannot be read, so the schema was not compared" in caplog.text
    assert world.query("SELECT count(*) FROM _schema_changes") == [(0,)]


def test_entity_missing_in_metadata_is_drift(world: World) -> None:
    world.sync()
    hidden = replace(PRODUCTS, in_metadata=False)
    world.emulator.tables["vin_products"].spec = hidden

    report = world.sync()

    assert [(item.entity, item.change) for item in report.drift] == [
        ("vin_products", "entity_removed")
    ]


def test_other_entities_compared_if_one_fails(
    world: World, passing: Any, caplog: pytest.LogCaptureFixture
) -> None:
    world.sync()
    world.emulator.add_column("vin_candidates", Column("vin_new", "Integer"))
    world.emulator.add_column("vin_products", Column("vin_new", "Integer"))
    fail(world, passing(PRODUCTS_METADATA))

    report = world.sync()

    assert report.ok
    assert [str(item) for item in report.drift] == [
        "vin_candidates.vin_new: new column (INTEGER), kept in json_response"
    ]
    assert "metadata of vin_products cannot be read, so their schema was not" in caplog.text


def test_diff_and_accept_name_failing_metadata(world: World, passing: Any) -> None:
    world.sync()
    world.emulator.add_column("vin_candidates", Column("vin_new", "Integer"))
    fail(world, passing(PRODUCTS_METADATA))

    found = diff(world)
    failures = accept(world)

    assert [item.column for item in found.drift] == ["vin_new"]
    assert list(found.failures) == ["vin_products"]
    assert "vin_products: cannot be compared, EntityDefinitions" in found.failures["vin_products"]
    assert len(failures) == 1
    lock = load_lock(world.schema_path)
    assert lock is not None
    assert lock["vin_candidates"].has("vin_new")


def test_guessed_lock_not_guessed_again_on_failure(make_world: Any) -> None:
    world: World = make_world([CANDIDATES], metadata_readable=False)
    insert(world.emulator, "vin_candidates", [{"vin_name": "A"}])
    world.sync(CANDIDATES_ONLY)
    before = world.schema_path.read_bytes()
    insert(world.emulator, "vin_candidates", [{"vin_name": "B"}])
    fail(world, Fault("status", METADATA, MANY, status=503))
    world.emulator.log.clear()

    failures = accept(world, CANDIDATES_ONLY)

    assert "vin_candidates: cannot be compared" in failures[0]
    assert world.schema_path.read_bytes() == before
    assert world.asked() == []


# What was guessed wrongly


ODD = Table(
    "vin_odd",
    "vin_odds",
    "vin_rowidentifier",
    [
        Column("vin_groupid", "Uniqueidentifier"),
        Column("vin_count", "Integer"),
        Column("vin_weight", "Decimal"),
    ],
)
ODD_ONLY = [EntityConfig("vin_odds")]


def group(number: int) -> str:
    return f"{number:08d}-1111-1111-1111-111111111111"


@pytest.fixture
def guessed(make_world: Any) -> World:
    """A table with a key guessed wrong, and types of values that the first record has not."""
    world: World = make_world([ODD], metadata_readable=False)
    insert(world.emulator, "vin_odds", [{"vin_groupid": group(n)} for n in range(7)])
    assert world.sync(ODD_ONLY).ok
    lock = load_lock(world.schema_path)
    assert lock is not None
    assert lock["vin_odds"].key == "vin_groupid"
    world.emulator.control.metadata_readable = True
    world.wait()
    return world


WRONG = [
    "vin_odds.vin_count: type changed from TEXT to INTEGER",
    "vin_odds.vin_rowidentifier: is the key, not what the locked schema takes for it",
    "vin_odds.vin_weight: type changed from TEXT to REAL",
]


def test_wrong_guess_is_drift(guessed: World, caplog: pytest.LogCaptureFixture) -> None:
    keys = list(guessed.emulator.rows("vin_odds"))

    for number, key in enumerate(keys[:3]):
        caplog.clear()
        guessed.wait()
        guessed.emulator.update("vin_odds", key, {"vin_count": number})
        report = guessed.sync(ODD_ONLY)
        assert report.ok
        assert sorted(str(item) for item in report.drift) == WRONG
        assert caplog.text.count("schema drift, breaking") == 3
    assert sorted(str(item) for item in diff(guessed, ODD_ONLY).drift) == WRONG
    assert guessed.query("SELECT count(*), sum(standing) FROM _schema_changes") == [(3, 3)]


def test_guess_of_fewer_columns_is_drift(guessed: World) -> None:
    guessed.emulator.add_column("vin_odds", Column("vin_new", "Integer"))

    report = guessed.sync(ODD_ONLY)

    new = "vin_odds.vin_new: new column (INTEGER), kept in json_response"
    assert sorted(str(item) for item in report.drift) == sorted([*WRONG, new])


@pytest.mark.parametrize("deletions", ["sync", "ignore"])
def test_accept_mends_wrong_guess(guessed: World, deletions: Any) -> None:
    odd = [EntityConfig("vin_odds", deletions=deletions)]
    records = guessed.emulator.rows("vin_odds")
    keys = sorted(records, key=lambda key: records[key]["vin_groupid"])
    # By the wrong key: one record is stored twice, and another replaces the row of a third.
    guessed.emulator.update("vin_odds", keys[0], {"vin_groupid": group(99), "vin_count": 5})
    guessed.emulator.update("vin_odds", keys[1], {"vin_groupid": group(2), "vin_weight": 1.5})
    guessed.sync(odd)
    guessed.wait()
    guessed.emulator.insert("vin_odds", {"vin_groupid": group(50)})
    guessed.sync(odd)
    guessed.wait()
    guessed.emulator.insert("vin_odds", {"vin_groupid": group(51)})
    guessed.sync(odd)  # from a bookmark past the records that were merged
    stored = guessed.query("SELECT count(DISTINCT vin_rowidentifier) FROM vin_odds")
    assert stored == [(8,)]  # of nine

    failures = accept(guessed, odd)
    report = guessed.sync(odd)

    assert failures == []
    assert report.ok
    assert report.drift == ()
    assert guessed.is_mirror("vin_odds")
    assert guessed.query("PRAGMA foreign_key_check") == []
    info = {row[1]: (row[2], row[5]) for row in guessed.query("PRAGMA table_info(vin_odds)")}
    assert info["vin_rowidentifier"] == ("TEXT", 1)
    assert info["vin_groupid"] == ("TEXT", 0)
    assert info["vin_count"] == ("INTEGER", 0)
    assert diff(guessed, odd).drift == ()


def test_accept_of_key_forgets_progress(guessed: World) -> None:
    guessed.execute("UPDATE _sync_state SET checkpoint = '{}', delta_link = 'there'")
    progress = "SELECT last_timestamp, checkpoint, delta_link FROM _sync_state"
    assert None not in guessed.query(progress)[0]

    accept(guessed, ODD_ONLY)

    assert guessed.query(progress) == [(None, None, None)]


def test_accept_of_types_reads_nothing_again(make_world: Any) -> None:
    world: World = make_world([CANDIDATES], metadata_readable=False)
    insert(world.emulator, "vin_candidates", [{"vin_name": "A"}, {"vin_name": "B"}])
    world.sync(CANDIDATES_ONLY)
    world.emulator.control.metadata_readable = True
    world.wait()

    accept(world, CANDIDATES_ONLY)
    report = world.sync(CANDIDATES_ONLY)

    assert report.drift == ()
    assert report.totals.fetched == 0
    assert world.is_mirror("vin_candidates")


# Elastic and virtual tables

PROVIDER = "c9a7f5b6-2e3d-4a1b-9f80-7d6e5c4b3a21"
ELASTIC_PROVIDER = "1d9bde74-9ebd-4da9-8ff5-aa74945b9f74"
KINDS = [
    CANDIDATES,
    Table(
        "vin_sensor",
        "vin_sensors",
        "vin_sensorid",
        [Column("partitionid", "String"), Column("ttlinseconds", "Integer")],
        table_type="Elastic",
        data_provider=ELASTIC_PROVIDER,
    ),
    Table(
        "vin_rate",
        "vin_rates",
        "vin_rateid",
        [Column("vin_name", "String")],
        modifiedon=False,
        table_type="Virtual",
        data_provider=PROVIDER,
    ),
]
KIND_NAMES = ["vin_candidates", "vin_sensors", "vin_rates"]
ALL_KINDS = [EntityConfig(name) for name in KIND_NAMES]


@pytest.mark.parametrize(
    ("unknown", "requests"),
    [((), 1), (("TableType",), 2), (("Privileges",), 3), (("TableType", "Privileges"), 3)],
)
def test_kinds_are_locked(make_world: Any, unknown: tuple[str, ...], requests: int) -> None:
    world: World = make_world(KINDS, unknown_properties=unknown)

    report = world.sync(ALL_KINDS)

    assert report.ok
    assert len(world.asked(kind="metadata")) == requests
    filed = json.loads(world.schema_path.read_text("utf-8"))["entities"]
    kinds = [filed[name].get("kind") for name in KIND_NAMES]
    assert kinds == [None, "elastic", "virtual"]


def test_lock_of_other_kind_stays(make_world: Any) -> None:
    plain = [replace(table, table_type="Standard", data_provider=None) for table in KINDS]
    world: World = make_world(plain)
    world.sync(ALL_KINDS)
    before = world.schema_path.read_bytes()
    for table in KINDS:
        world.emulator.tables[table.entity_set].spec = table

    report = world.sync(ALL_KINDS)

    assert b"kind" not in before
    assert report.ok
    assert report.drift == ()
    assert world.schema_path.read_bytes() == before
    assert diff(world, ALL_KINDS).drift == ()
    assert world.query("SELECT count(*) FROM _schema_changes") == [(0,)]
    accept(world, ALL_KINDS)
    assert world.schema_path.read_bytes().count(b'"kind"') == 2
