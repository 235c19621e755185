"""``schema diff`` and ``schema accept`` over the emulator, which changes its columns meanwhile."""

from __future__ import annotations

import json
import string
from dataclasses import replace
from typing import Any

import pytest
from conftest import ENTITIES, OLD, World, insert
from hypothesis import given, settings
from hypothesis import strategies as st

from dataverse_sync.commands import schema as schema_drift
from dataverse_sync.commands.labels import run_labels
from dataverse_sync.emulator import Column as EmulatedColumn
from dataverse_sync.emulator import Table
from dataverse_sync.errors import ConfigError, LockedError
from dataverse_sync.model import Column, Entity, EntityConfig
from dataverse_sync.redaction import Redactor
from dataverse_sync.schema.lock import accept_entity, diff_entity, dump_lock, load_lock
from dataverse_sync.store.run_lock import hold


def diff(world: World, only: tuple[str, ...] = ()) -> list[str]:
    live = schema_drift.get_drift(world.config(), ENTITIES, only, Redactor())
    assert live.failures == {}
    return [str(item) for item in live.drift]


def accept(world: World, *only: str, drop: bool = False) -> list[str]:
    told: list[str] = []
    failures = schema_drift.accept(
        world.config(), ENTITIES, only, Redactor(), drop=drop, tell=told.append
    )
    assert failures == []
    return told


def columns(world: World, name: str) -> dict[str, str]:
    return {row[1]: row[2] for row in world.query(f"PRAGMA table_info({name})")}


def test_diff_needs_locked_schema(world: World) -> None:
    with pytest.raises(ConfigError, match="nothing is locked yet"):
        diff(world)


def test_fresh_lock_equals_live_schema(world: World) -> None:
    world.sync()

    assert diff(world) == []


def test_differences_name_types(world: World) -> None:
    world.sync()
    world.emulator.add_column("vin_candidates", EmulatedColumn("vin_new", "Integer"))
    world.emulator.drop_column("vin_candidates", "vin_dose")
    world.emulator.retype_column("vin_candidates", "vin_number", "String")

    found = diff(world)

    assert found == [
        "vin_candidates.vin_new: new column (INTEGER), kept in json_response",
        "vin_candidates.vin_dose: column (REAL) is gone from Dataverse",
        "vin_candidates.vin_number: type changed from INTEGER to TEXT",
    ]


def test_new_column_filled_without_download(world: World) -> None:
    world.sync()
    world.emulator.add_column("vin_candidates", EmulatedColumn("vin_new", "Integer"))
    key = world.emulator.ids("vin_candidates")[0]
    world.wait()
    world.emulator.update("vin_candidates", key, {"vin_new": 42})
    world.wait()
    report = world.sync()
    assert report.ok
    assert "vin_new" not in columns(world, "vin_candidates")
    before = world.query("SELECT vin_candidateid, sync_time FROM vin_candidates ORDER BY 1")
    world.emulator.log.clear()

    accept(world)

    assert columns(world, "vin_candidates")["vin_new"] == "INTEGER"
    assert world.query("SELECT vin_candidateid, vin_new FROM vin_candidates WHERE vin_new") == [
        (key, 42)
    ]
    assert world.query("SELECT vin_candidateid, sync_time FROM vin_candidates ORDER BY 1") == before
    assert world.asked() == []
    assert diff(world) == []
    assert "vin_new" in world.schema_path.read_text(encoding="utf-8")


def lock_without_modifiedon(world: World, name: str) -> None:
    """Make a synced table one that was locked when its records had no ``modifiedon``."""
    lock = load_lock(world.schema_path) or {}
    columns = tuple(column for column in lock[name].columns if column.name != "modifiedon")
    text = dump_lock({**lock, name: replace(lock[name], columns=columns)})
    world.schema_path.write_text(text, encoding="utf-8")
    world.execute("UPDATE _schema_lock SET schema = ?", text)
    world.execute(f"DROP INDEX idx_{name}_modifiedon")
    world.execute(f"ALTER TABLE {name} DROP COLUMN modifiedon")
    world.execute(f"UPDATE {name} SET valid_from = NULL")
    world.execute("UPDATE _sync_state SET last_timestamp = NULL")


def test_accepted_modifiedon_fills_valid_from(world: World) -> None:
    world.sync()
    lock_without_modifiedon(world, "vin_products")

    accept(world, "vin_products")

    assert set(world.query("SELECT modifiedon, valid_from FROM vin_products")) == {(OLD, OLD)}
    world.sync()
    assert world.state("vin_products", "last_timestamp") == OLD


def test_sync_writes_accepted_column(world: World) -> None:
    world.sync()
    world.emulator.add_column("vin_candidates", EmulatedColumn("vin_new", "Decimal"))
    accept(world)
    world.wait()
    key = world.emulator.ids("vin_candidates")[0]
    world.emulator.update("vin_candidates", key, {"vin_new": "1.50"})

    world.sync()

    assert world.query("SELECT vin_new FROM vin_candidates WHERE vin_candidateid = ?", key) == [
        (1.5,)
    ]


def test_changed_type_rebuilds_table(world: World) -> None:
    world.sync()
    world.emulator.retype_column("vin_candidates", "vin_number", "String")
    json_before = world.copy("vin_candidates")
    times = world.query("SELECT vin_candidateid, sync_time FROM vin_candidates ORDER BY 1")

    accept(world, "vin_candidates")

    assert columns(world, "vin_candidates")["vin_number"] == "TEXT"
    assert world.query("SELECT DISTINCT typeof(vin_number) FROM vin_candidates") == [("text",)]
    assert world.copy("vin_candidates") == json_before
    assert world.query("SELECT vin_candidateid, sync_time FROM vin_candidates ORDER BY 1") == times
    indexes = {row[1] for row in world.query("PRAGMA index_list(vin_candidates)")}
    assert {"idx_vin_candidates_modifiedon", "idx_vin_candidates_createdon"} <= indexes
    assert diff(world) == []
    assert world.sync().ok


def test_removed_column_kept_unless_dropped(world: World) -> None:
    world.sync()
    world.emulator.drop_column("vin_candidates", "vin_name")

    accept(world)

    assert world.query("SELECT count(*) FROM vin_candidates WHERE vin_name IS NOT NULL") == [(12,)]
    assert diff(world) == []
    assert world.sync().drift == ()

    accept(world, drop=True)

    assert "vin_name" not in columns(world, "vin_candidates")
    assert world.query("SELECT count(*) FROM vin_candidates") == [(12,)]
    assert diff(world) == []


def test_removed_column_survives_rebuild(world: World) -> None:
    world.sync()
    world.emulator.drop_column("vin_candidates", "vin_name")
    accept(world)
    stored = world.query("SELECT vin_candidateid, vin_name FROM vin_candidates ORDER BY 1")
    world.execute(
        "UPDATE vin_candidates SET json_response = json_remove(json_response, '$.vin_name')"
    )
    world.emulator.retype_column("vin_candidates", "vin_number", "String")

    accept(world)

    assert world.query("SELECT vin_candidateid, vin_name FROM vin_candidates ORDER BY 1") == stored


def test_labelled_view_survives_rebuild(world: World) -> None:
    world.sync()
    run_labels(world.config(), ENTITIES, (), Redactor(), lambda _: None)
    world.emulator.retype_column("vin_candidates", "vin_number", "String")

    accept(world)

    assert world.query("SELECT count(*) FROM vin_candidates_labelled") == [(12,)]
    world.emulator.drop_column("vin_candidates", "vin_number")

    told = accept(world, drop=True)

    assert any(line.startswith("vin_candidates_labelled: dropped") for line in told)
    assert world.sync().ok


def test_only_named_entities_accepted(world: World) -> None:
    world.sync()
    world.emulator.add_column("vin_candidates", EmulatedColumn("vin_new", "String"))
    world.emulator.add_column("vin_products", EmulatedColumn("vin_new", "String"))

    accept(world, "vin_products")

    assert diff(world) == ["vin_candidates.vin_new: new column (TEXT), kept in json_response"]


def test_accept_takes_run_lock(world: World) -> None:
    world.sync()

    with hold(world.db_path, world.emulator.clock.now()), pytest.raises(LockedError):
        accept(world)


def test_accept_needs_database(world: World) -> None:
    with pytest.raises(ConfigError, match="no database yet"):
        accept(world)


def test_accept_mends_missing_column(
    world: World,
) -> None:
    world.sync()
    world.execute("ALTER TABLE vin_products DROP COLUMN vin_name")
    before = world.schema_path.read_bytes()
    world.emulator.log.clear()

    with pytest.raises(ConfigError, match=r"table vin_products lacks vin_name.*schema accept"):
        world.sync()

    assert world.emulator.log == []
    assert world.schema_path.read_bytes() == before

    accept(world)

    assert world.query("SELECT count(*) FROM vin_products WHERE vin_name IS NOT NULL") == [(8,)]
    assert world.sync().ok


def test_killed_accept_changes_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.sync()
    rows, lock = world.rows(), world.schema_path.read_bytes()
    world.emulator.retype_column("vin_candidates", "vin_number", "String")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(schema_drift, "save_lock_copy", die)
    with pytest.raises(KeyboardInterrupt):
        accept(world)
    monkeypatch.undo()

    assert world.rows() == rows
    assert world.schema_path.read_bytes() == lock
    assert world.sync().ok


def test_outdated_lock_file_rewritten(world: World) -> None:
    world.sync()
    behind = world.schema_path.read_text(encoding="utf-8")
    world.emulator.retype_column("vin_candidates", "vin_number", "String")
    accept(world)
    accepted = world.schema_path.read_text(encoding="utf-8")
    world.schema_path.write_text(behind, encoding="utf-8")  # as if killed between the two

    report = world.sync()

    assert report.ok
    assert report.drift == ()
    assert world.schema_path.read_text(encoding="utf-8") == accepted


def test_drift_reported_always_written_once(world: World) -> None:
    world.sync()
    world.emulator.add_column("vin_candidates", EmulatedColumn("vin_new", "Integer"))
    world.emulator.drop_column("vin_candidates", "vin_dose")

    first, second = world.sync(), world.sync()

    assert first.ok
    assert [str(item) for item in first.drift] == [str(item) for item in second.drift]
    assert world.query(
        "SELECT entity_name, column_name, change, severity, old_type, new_type FROM _schema_changes"
    ) == [
        ("vin_candidates", "vin_new", "column_added", "info", None, "INTEGER"),
        ("vin_candidates", "vin_dose", "column_removed", "breaking", "REAL", None),
    ]


def test_removed_column_null_in_new_rows(world: World) -> None:
    world.sync()
    world.emulator.drop_column("vin_candidates", "vin_name")
    world.wait()
    key = world.emulator.ids("vin_candidates")[0]
    world.emulator.update("vin_candidates", key, {"vin_number": 99})

    report = world.sync()

    assert report.ok
    stored: dict[str, Any] = dict(
        world.query("SELECT vin_candidateid, vin_name FROM vin_candidates")
    )
    assert stored.pop(key) is None
    assert None not in stored.values()


def test_added_entity_locked_and_synced(world: World) -> None:
    world.sync(ENTITIES[:1])

    report = world.sync(ENTITIES[:2])

    assert [str(item) for item in report.drift] == ["vin_products: new in the configuration"]
    assert world.is_mirror("vin_candidates", "vin_products")
    assert world.query("SELECT change, severity FROM _schema_changes") == [("entity_added", "info")]
    lock = load_lock(world.schema_path)
    assert lock is not None
    assert sorted(lock) == ["vin_candidates", "vin_products"]


def test_unconfigured_entity_keeps_table(world: World) -> None:
    world.sync(ENTITIES[:2])

    report = world.sync(ENTITIES[:1])

    assert report.ok
    assert report.drift == ()
    assert world.query("SELECT entity_name, change FROM _schema_changes") == [
        ("vin_products", "entity_removed")
    ]
    assert world.query("SELECT count(*) FROM vin_products") == [(8,)]


def test_accept_table_of_400_columns(make_world: Any) -> None:
    kinds = ("String", "Integer", "Decimal", "Boolean")
    wide = Table(
        "vin_wide",
        "vin_wides",
        "vin_wideid",
        [EmulatedColumn(f"vin_c{n:03d}", kinds[n % 4]) for n in range(400)],
    )
    world: World = make_world([wide])
    values = ("text", 7, "2.50", True)
    # Half the columns are null in every record of the first page.
    insert(
        world.emulator,
        "vin_wides",
        [{f"vin_c{n:03d}": values[n % 4] for n in range(200)} for _ in range(6)],
    )
    key = world.emulator.insert(
        "vin_wides", {f"vin_c{n:03d}": values[n % 4] for n in range(400)}, modifiedon=OLD
    )

    report = world.sync([EntityConfig("vin_wides")])

    assert report.ok
    types = columns(world, "vin_wides")
    assert [types[f"vin_c{n:03d}"] for n in range(396, 400)] == [
        "TEXT",
        "INTEGER",
        "REAL",
        "INTEGER",
    ]
    assert world.query(
        "SELECT vin_c396, vin_c397, vin_c398, vin_c399 FROM vin_wides WHERE vin_wideid = ?", key
    ) == [("text", 7, 2.5, 1)]
    assert world.is_mirror("vin_wides")


names = st.text(string.ascii_lowercase + "_", min_size=1, max_size=6)
types = st.sampled_from(["TEXT", "INTEGER", "REAL"])
tables = st.dictionaries(names, types, max_size=8)


def entity(found: dict[str, Any]) -> Entity:
    columns = (Column("thingid", "TEXT"), *(Column(f"c_{n}", t) for n, t in found.items()))
    return Entity("things", "thingid", columns, "metadata")


@settings(deadline=None)
@given(tables, tables, st.booleans())
def test_nothing_differs_after_accept(
    locked: dict[str, Any], live: dict[str, Any], drop: bool
) -> None:
    was, now = entity(locked), entity(live)

    assert (diff_entity(was, now) == []) == (locked == live)
    assert (diff_entity(now, was) == []) == (locked == live)
    accepted = accept_entity(was, now, drop)
    assert diff_entity(accepted, now) == []
    kept = {column.name for column in accepted.columns if column.gone}
    assert kept == (set() if drop else {f"c_{n}" for n in locked.keys() - live.keys()})


def test_returning_column_is_new() -> None:
    was, now = entity({"a": "TEXT"}), entity({})
    accepted = accept_entity(was, now, drop=False)

    found = diff_entity(accepted, was)

    assert [(item.change, item.column) for item in found] == [("column_added", "c_a")]
    assert diff_entity(accept_entity(accepted, was, drop=False), was) == []


def test_wrongly_guessed_key_is_drift() -> None:
    guessed = Entity(
        "links", "accountid", (Column("accountid", "TEXT"), Column("linkid", "TEXT")), "sample"
    )
    live = Entity(
        "links", "linkid", (Column("accountid", "TEXT"), Column("linkid", "TEXT")), "metadata"
    )

    found = diff_entity(guessed, live)

    assert [(item.change, item.column, item.severity) for item in found] == [
        ("type_changed", "linkid", "breaking")
    ]
    assert str(found[0]) == "links.linkid: is the key, not what the locked schema takes for it"
    assert diff_entity(accept_entity(guessed, live, drop=False), live) == []


def test_lock_file_marks_removed_columns(world: World) -> None:
    world.sync()
    world.emulator.drop_column("vin_candidates", "vin_dose")
    accept(world)

    lock = load_lock(world.schema_path)

    assert lock is not None
    (dose,) = [c for c in lock["vin_candidates"].columns if c.name == "vin_dose"]
    assert dose == Column("vin_dose", "REAL", gone=True)
    assert json.loads(dump_lock(lock)) == json.loads(world.schema_path.read_text("utf-8"))
    assert replace(dose, gone=False) != dose


def test_drift_found_in_fetched_records(make_world: Any) -> None:
    plain = Table(
        "vin_plain", "vin_plains", "vin_plainid", [EmulatedColumn("vin_name", "String")],
        in_metadata=False,
    )  # fmt: skip
    world: World = make_world([plain])
    keys = insert(world.emulator, "vin_plains", [{"vin_name": "a"}, {"vin_name": "b"}])
    entities = [EntityConfig("vin_plains")]
    world.sync(entities)
    world.emulator.add_column("vin_plains", EmulatedColumn("vin_new", "Integer"))

    unchanged = world.sync(entities)
    world.wait()
    world.emulator.update("vin_plains", keys[0], {"vin_new": 7})
    changed = world.sync(entities)
    world.sync(entities)

    assert unchanged.drift == ()
    assert [item.column for item in changed.drift] == ["vin_new"]
    assert world.query("SELECT column_name, change FROM _schema_changes") == [
        ("vin_new", "column_added")
    ]


def test_diff_refuses_other_files(world: World) -> None:
    world.sync(ENTITIES[:1])
    world.db_path.write_text("this is no database", encoding="utf-8")

    with pytest.raises(ConfigError, match="is not a SQLite database"):
        schema_drift.get_drift(world.config(), ENTITIES[:1], (), Redactor())
