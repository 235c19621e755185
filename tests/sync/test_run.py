"""One whole run: its phases, the schema lock, its errors, the state after it."""

from __future__ import annotations

import json
import logging
import shutil
import sqlite3
import threading
import warnings
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from conftest import CANDIDATES, CANDIDATES_ONLY, ENTITIES, LINK_SET, TABLES, World, insert
from sqlalchemy import Engine, event

from dataverse_sync import EntityConfig, run_sync
from dataverse_sync.emulator import Column, Fault, Table
from dataverse_sync.errors import (
    AuthError,
    ConfigError,
    LockedError,
    StorageError,
    UnreachableError,
)
from dataverse_sync.model import (
    EntityFinished,
    EntityStarted,
    PageStored,
    PhaseStarted,
    ReadExpected,
)
from dataverse_sync.store import run_lock, sqlite
from dataverse_sync.store import sync_state as database_states
from dataverse_sync.sync import page_loop as pages


def drift_rows(world) -> list[tuple[object, ...]]:
    return world.query(
        "SELECT entity_name, column_name, change, severity, old_type, new_type "
        "FROM _schema_changes ORDER BY id"
    )


# The phases


def test_run_reports_six_phases_and_events(world):
    events = []

    report = world.sync(on_event=events.append)

    phases = [event.number for event in events if isinstance(event, PhaseStarted)]
    started = {event.entity for event in events if isinstance(event, EntityStarted)}
    finished = {event.report.name for event in events if isinstance(event, EntityFinished)}
    assert phases == [1, 2, 3, 4, 5, 6]
    assert started == finished == {entity.name for entity in ENTITIES}
    assert sum(event.records for event in events if isinstance(event, PageStored)) >= 24
    assert report.bytes_read > 0
    assert report.finished_at >= report.started_at


def expected(world, **options) -> dict[str, tuple[int | None, int | None]]:
    """Return the records and keys that a run expects to read of each entity."""
    events = []
    world.sync(on_event=events.append, **options)
    return {e.entity: (e.records, e.keys) for e in events if isinstance(e, ReadExpected)}


def test_run_reports_expected_records(world):
    first = expected(world)
    second = expected(world)
    full = expected(world, full=True)

    assert first == {
        "vin_candidates": (12, 12),
        "vin_products": (8, 8),
        "vin_vin_candidate_accountset": (None, None),  # has no createdon: not counted
        "accounts": (2, None),
        "contacts": (1, None),
    }
    assert second == {
        "vin_candidates": (None, 12),
        "vin_products": (None, 8),
        "vin_vin_candidate_accountset": (1, 1),
        "accounts": (None, 2),
        "contacts": (None, 1),
    }
    assert (full["vin_candidates"], full["accounts"]) == ((12, 12), (2, 2))


def test_short_reads_first_then_longest_table(world):
    insert(world.emulator, "vin_products", [{"vin_name": f"More {n}"} for n in range(8)])
    entities = [EntityConfig(name) for name in (LINK_SET, "vin_candidates", "vin_products")]

    def order(page_size: int) -> list[str]:
        world.emulator.log.clear()
        run_sync(world.config(workers=1, page_size=page_size), entities, labels=False)
        asked = [
            request.entity_set for request in world.asked() if request.query.get("$top") != "1"
        ]
        return list(dict.fromkeys(name for name in asked if name is not None))

    assert order(4)[-2:] == ["vin_products", "vin_candidates"]
    world.execute("UPDATE _sync_state SET records_count = 9 WHERE entity_name = ?", LINK_SET)
    assert order(4)[-1] == LINK_SET
    assert order(50) == ["vin_products", LINK_SET, "vin_candidates"]  # the first is compared


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("vin_candidates", 13),
        ("vin_products", 10),
    ],  # all; all, and the changes
)
def test_thin_pages_marked_in_events(world, name, keys):
    events = []
    world.sync()
    insert(world.emulator, name, [{"vin_name": "new"}])

    world.sync([EntityConfig(name)], on_event=events.append)

    pages = [event for event in events if isinstance(event, PageStored)]
    assert sum(page.records for page in pages if page.keys_only) == keys
    assert sum(page.records for page in pages if not page.keys_only) == 1


def test_run_prints_and_leaves_nothing(world, capfd):
    threads = set(threading.enumerate())
    handlers = list(logging.getLogger().handlers)
    level = logging.getLogger("dataverse_sync").level
    filters = list(warnings.filters)

    world.sync()

    left = {one for one in set(threading.enumerate()) - threads if "dataverse" in one.name}
    assert left == set()
    assert logging.getLogger().handlers == handlers
    assert logging.getLogger("dataverse_sync").level == level
    assert list(warnings.filters) == filters
    assert capfd.readouterr() == ("", "")
    assert sorted(path.name for path in world.folder.iterdir()) == ["dataverse.db", "schema"]


def test_nothing_written_before_sign_in(world):
    config = world.config(client_secret="wrong")

    with pytest.raises(AuthError):
        run_sync(config, ENTITIES)

    assert list(world.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("entities", "only", "message"),
    [
        ([], (), "the list of entities is empty"),
        ([EntityConfig("_sync_state")], (), "the program's own tables"),
        (CANDIDATES_ONLY, ("accounts",), "not in the entity configuration: accounts"),
    ],
)
def test_a_wrong_configuration_asks_for_nothing(world, entities, only, message):
    with pytest.raises(ConfigError, match=message):
        run_sync(world.config(), entities, only=only)

    assert world.emulator.log == []
    assert list(world.folder.iterdir()) == []


def test_unusable_database_sends_no_request(world):
    world.db_path.write_text("no database")

    with pytest.raises(ConfigError, match="is not a SQLite database"):
        world.sync()

    assert world.emulator.log == []


def test_second_run_on_database_refused(world):
    with (
        run_lock.hold(world.db_path, datetime.now(UTC)),
        pytest.raises(LockedError, match="another run holds this database"),
    ):
        world.sync()

    assert world.emulator.log == []


def test_unreachable_api_ends_run(world, monkeypatch):
    monkeypatch.setattr(
        "dataverse_sync.dataverse.transport.Retries.get_backoff_time", lambda _: 0.0
    )
    world.emulator.stop()

    with pytest.raises((UnreachableError, AuthError)):
        world.sync()

    assert not world.db_path.exists()


def test_log_of_killed_run_closed(world, caplog):
    world.sync(CANDIDATES_ONLY)
    world.execute("UPDATE _sync_log SET status = 'in_progress', finished_at = NULL")

    world.sync(CANDIDATES_ONLY)

    assert "1 entity resumes from the last committed page" in caplog.text
    assert world.query("SELECT status FROM _sync_log ORDER BY id") == [("failed",), ("completed",)]


def test_missing_write_ahead_logging_reported(world, monkeypatch, caplog):
    monkeypatch.setattr(sqlite.SqliteFile, "blocks_readers", lambda _self, _connection: True)

    report = world.sync(CANDIDATES_ONLY)

    assert report.ok
    assert "write-ahead logging does not work there" in caplog.text


def test_database_locked_at_opening_refused(world, monkeypatch):
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_S", 0.05)
    with closing(sqlite3.connect(world.db_path, isolation_level=None)) as other:
        other.execute("CREATE TABLE t (a)")
        other.execute("BEGIN EXCLUSIVE")

        with pytest.raises((ConfigError, StorageError), match="locked"):
            world.sync(CANDIDATES_ONLY)


def test_database_that_cannot_open_refused(world, monkeypatch):
    def refuse(_path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(sqlite, "open_engine", refuse)

    with pytest.raises(ConfigError, match=r"dataverse\.db: cannot be opened .*Permission denied"):
        world.sync(CANDIDATES_ONLY)


# What ends a run


def test_database_locked_midway_ends_run(world, monkeypatch):
    world.sync(CANDIDATES_ONLY)
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_S", 0.05)
    before = world.copy("vin_candidates")

    with closing(sqlite3.connect(world.db_path, isolation_level=None)) as other:

        def hold(event):
            if isinstance(event, PhaseStarted) and event.number == 5:
                other.execute("BEGIN IMMEDIATE")

        with pytest.raises(StorageError, match="locked"):
            world.sync(CANDIDATES_ONLY, on_event=hold, full=True)

    assert world.copy("vin_candidates") == before


def test_interrupted_run_recorded_and_resumed(world, monkeypatch, caplog):
    monkeypatch.setattr(pages, "PAGES_PER_TRANSACTION", 1)

    def interrupt(event):
        if isinstance(event, PageStored) and event.entity == "vin_candidates":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        world.sync(CANDIDATES_ONLY, on_event=interrupt)

    states = world.query("SELECT state, error FROM _sync_state")
    report = world.sync(CANDIDATES_ONLY)
    assert "interrupted" not in caplog.text  # whoever is told of it says it, once
    assert states == [("failed", "interrupted. The next run goes on from the last committed page.")]
    assert report.entities[0].counts.fetched == 7
    assert world.is_mirror("vin_candidates")


def test_interrupt_at_transaction_begin_recorded(world):
    began = []

    def interrupt(connection, cursor, statement, *_):
        if statement == "BEGIN IMMEDIATE" and threading.current_thread() is threading.main_thread():
            began.append(statement)
            if len(began) == 7:  # the first of the page loop: it has begun, and nobody knows
                raise KeyboardInterrupt

    event.listen(Engine, "after_cursor_execute", interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            world.sync(CANDIDATES_ONLY)
    finally:
        event.remove(Engine, "after_cursor_execute", interrupt)

    assert world.query("SELECT state, error FROM _sync_state") == [
        ("failed", "interrupted. The next run goes on from the last committed page.")
    ]
    assert world.sync(CANDIDATES_ONLY).ok
    assert world.is_mirror("vin_candidates")


def test_bug_keeps_traceback_and_is_recorded(world, monkeypatch):
    def fail(*_args, **_options):
        raise ZeroDivisionError

    monkeypatch.setattr("dataverse_sync.sync.storing.write_records", fail)

    with pytest.raises(ZeroDivisionError) as caught:
        world.sync(CANDIDATES_ONLY)

    assert "fail" in [entry.name for entry in caught.traceback]
    ((state, error),) = world.query("SELECT state, error FROM _sync_state")
    assert (state, error.split(".")[0]) == ("failed", "ZeroDivisionError")


def test_secret_not_in_stored_error(world):
    body = f'{{"error": {{"code": "", "message": "{world.emulator.client_secret}"}}}}'.encode()
    world.emulator.control.fault(Fault("status", match=r"/vin_candidates\?", status=403, body=body))

    report = world.sync(CANDIDATES_ONLY)

    (kept,) = world.query("SELECT error FROM _sync_state")
    assert world.emulator.client_secret not in report.failed[0].error
    assert world.emulator.client_secret not in kept[0]


# The schema lock


def test_first_sync_writes_lock_twice(world):
    world.sync()

    lock = json.loads(world.schema_path.read_text())
    ((copy,),) = world.query("SELECT schema FROM _schema_lock")
    assert sorted(lock["entities"]) == sorted(entity.name for entity in ENTITIES)
    assert lock["entities"]["vin_candidates"]["columns"]["vin_number"] == {"type": "INTEGER"}
    assert json.loads(copy) == lock
    assert drift_rows(world) == []


def test_missing_lock_file_restored_from_database(world, caplog):
    world.sync()
    text = world.schema_path.read_text()
    world.schema_path.unlink()
    world.emulator.add_column("vin_candidates", Column("vin_new", "String"))

    report = world.sync()

    assert report.ok
    assert world.schema_path.read_text() == text
    assert "written again from the database" in caplog.text


def test_lock_file_alone_makes_same_tables(world):
    world.sync()
    world.db_path.unlink()
    world.emulator.add_column("vin_candidates", Column("vin_new", "String"))

    world.sync()

    columns = [row[1] for row in world.query("PRAGMA table_info(vin_candidates)")]
    assert "vin_new" not in columns
    assert world.is_mirror("vin_candidates")


def test_damaged_lock_file_refused(world):
    world.sync()
    before = world.db_path.read_bytes()
    world.schema_path.write_text('{"version": 1, "entities": {"vin_candidates": 7}}')
    world.emulator.log.clear()

    with pytest.raises(ConfigError, match=r"schema\.json: damaged"):
        run_sync(world.config(), ENTITIES)

    assert world.emulator.log == []
    assert world.db_path.read_bytes() == before


def test_lock_that_lacks_columns_refused(world):
    world.sync()
    lock = json.loads(world.schema_path.read_text())
    lock["entities"]["vin_candidates"]["columns"]["vin_new"] = {"type": "TEXT"}
    world.schema_path.write_text(json.dumps(lock))

    with pytest.raises(ConfigError, match="table vin_candidates lacks vin_new"):
        world.sync()

    assert world.emulator.log == []


def test_damaged_lock_in_database_refused(world):
    world.sync()
    world.execute("UPDATE _schema_lock SET schema = '{'")

    with pytest.raises(ConfigError, match="_schema_lock: damaged"):
        world.sync()


def test_malformed_database_refused_without_request(world):
    world.sync()
    ((root,),) = world.query("SELECT rootpage FROM sqlite_master WHERE name = '_schema_lock'")
    with world.db_path.open("r+b") as file:
        file.seek((root - 1) * sqlite.PAGE_SIZE)
        file.write(b"\xff" * sqlite.PAGE_SIZE)

    with pytest.raises(ConfigError, match=r"dataverse\.db.*malformed"):
        world.sync()

    assert world.emulator.log == []


def test_impossible_schema_folder_ends_run(world):
    (world.folder / "schema").write_text("a file where the folder should be")

    with pytest.raises((ConfigError, StorageError), match="schema"):
        world.sync()


# Drift


def test_drift_recorded_once_and_run_succeeds(world, caplog):
    world.sync(CANDIDATES_ONLY)
    world.emulator.add_column("vin_candidates", Column("vin_new", "Integer"))
    world.emulator.drop_column("vin_candidates", "vin_dose")
    world.emulator.retype_column("vin_candidates", "vin_number", "String")

    first = world.sync(CANDIDATES_ONLY)
    second = world.sync(CANDIDATES_ONLY)

    assert first.ok
    assert len(first.drift) == len(second.drift) == 3
    assert sorted(drift_rows(world), key=str) == [
        ("vin_candidates", "vin_dose", "column_removed", "breaking", "REAL", None),
        ("vin_candidates", "vin_new", "column_added", "info", None, "INTEGER"),
        ("vin_candidates", "vin_number", "type_changed", "breaking", "INTEGER", "TEXT"),
    ]
    assert "schema drift, breaking: vin_candidates.vin_dose" in caplog.text


def test_refused_metadata_sign_in_fails_nothing(world, caplog):
    world.sync()
    insert(world.emulator, "vin_candidates", [{"vin_name": "new"}])
    world.emulator.control.fault(Fault("status", "GET .*EntityDefinitions", times=1, status=401))
    world.emulator.control.fault(Fault("status", "POST .*token", times=99, skip=1, status=400))

    report = world.sync()

    assert report.ok
    assert world.is_mirror("vin_candidates")
    assert report.drift == ()
    assert "the schema was not compared: Sign-in was refused (400)" in caplog.text


def test_new_field_in_json_without_column(world):
    world.sync(CANDIDATES_ONLY)
    world.emulator.add_column("vin_candidates", Column("vin_new", "String"))
    key = min(world.copy("vin_candidates"))
    world.emulator.update("vin_candidates", key, {"vin_new": "there"})

    world.sync(CANDIDATES_ONLY)

    assert b'"vin_new":"there"' in world.copy("vin_candidates")[key]
    columns = [row[1] for row in world.query("PRAGMA table_info(vin_candidates)")]
    assert "vin_new" not in columns


def test_partial_run_keeps_drift_of_others(world):
    world.sync()
    world.emulator.add_column("vin_candidates", Column("vin_new", "Integer"))
    world.sync()
    world.sync(only=["vin_products"])

    world.sync()

    assert len(drift_rows(world)) == 1


def test_removed_table_is_drift_and_fails(world):
    world.sync()
    before = world.copy("vin_products")
    world.emulator.remove_table("vin_products")

    report = world.sync()

    assert [entity.name for entity in report.failed] == ["vin_products"]
    assert ("vin_products", None, "entity_removed", "breaking", None, None) in drift_rows(world)
    assert world.copy("vin_products") == before


def test_columns_differing_by_case_reported(make_world, caplog):
    table = CANDIDATES.with_column(Column("VIN_NAME", "String")).with_column(
        Column("sync_time", "String")
    )
    world = make_world([table])
    insert(world.emulator, "vin_candidates", [{"vin_name": "a", "VIN_NAME": "b"}])

    report = world.sync(CANDIDATES_ONLY)

    assert report.ok
    assert "no column of their own for sync_time, vin_name" in caplog.text
    assert world.query("SELECT VIN_NAME FROM vin_candidates") == [("b",)]
    assert world.is_mirror("vin_candidates")


def test_database_moved_without_lock_file_syncs(world):
    world.sync()
    world.wait()
    moved = Path(shutil.move(world.db_path, world.folder / "moved.db"))
    world.db_path = moved
    shutil.rmtree(world.folder / "schema")

    report = world.sync()

    assert report.ok
    assert report.totals.added == 0
    assert world.schema_path.exists()


def test_report_of_only_failures_not_ok(make_world):
    world = make_world(TABLES)

    report = world.sync([EntityConfig("no_such_set")])

    assert not report.ok
    assert world.query("SELECT entity_name, state FROM _sync_state") == [("no_such_set", "failed")]


def test_entity_finished_after_its_last_page(world: World) -> None:
    events: list[object] = []

    world.sync(on_event=events.append)

    told = [event for event in events if isinstance(event, PageStored | EntityFinished)]
    for name in ("vin_candidates", "accounts"):
        own = [
            event
            for event in told
            if (event.entity if isinstance(event, PageStored) else event.report.name) == name
        ]
        assert isinstance(own[-1], EntityFinished)
        assert len(own) > 1


def test_ambiguous_guessed_key_fails_entity(make_world: Any) -> None:
    # Nothing in the name or the columns says which of the two ids is the key.
    odd = Table(
        "vin_odd", "vin_odds", "vin_rowidentifier",
        [Column("vin_groupid", "Uniqueidentifier")],
        in_metadata=False, modifiedon=False, createdon=False,
    )  # fmt: skip
    world: World = make_world([odd])
    group = "11111111-1111-1111-1111-111111111111"
    world.emulator.insert_many("vin_odds", [{"vin_groupid": group}] * 3)

    report = world.sync([EntityConfig("vin_odds")])

    assert "several records have the same vin_groupid" in str(report.failed[0].error)
    assert world.query("SELECT count(*) FROM vin_odds") == [(0,)]


def test_junction_without_metadata_keeps_every_row(make_world: Any) -> None:
    junction = replace(TABLES[2], in_metadata=False)
    world: World = make_world([TABLES[0], junction, *TABLES[3:]])
    ids = [f"{n:08d}-1111-1111-1111-111111111111" for n in range(4)]
    for left in ids:
        for right in ids:
            world.emulator.insert(
                "vin_vin_candidate_accountset", {"vin_candidateid": left, "accountid": right}
            )

    report = world.sync([EntityConfig("vin_vin_candidate_accountset")])

    assert report.ok
    assert world.query("SELECT count(*) FROM vin_vin_candidate_accountset") == [(16,)]


def test_table_of_other_program_refused(world: World) -> None:
    world.execute("CREATE TABLE vin_products (x)")

    with pytest.raises(ConfigError, match="tables of other programs under the names vin_products"):
        world.sync()

    assert world.emulator.log == []
    assert world.query("SELECT name FROM sqlite_master") == [("vin_products",)]


def test_excess_columns_stay_in_json(make_world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataverse_sync.store.tables.MOST_COLUMNS", 20)
    many = [Column(f"vin_c{n:04d}", "Integer") for n in range(30)]
    world: World = make_world([Table("vin_wide", "vin_wides", "vin_wideid", many)])
    insert(world.emulator, "vin_wides", [{"vin_c0029": 7}])
    entities = [EntityConfig("vin_wides")]

    first, second = world.sync(entities), world.sync(entities)

    assert (first.ok, second.ok) == (True, True)
    assert world.is_mirror("vin_wides")
    assert world.query("SELECT json_extract(json_response, '$.vin_c0029') FROM vin_wides") == [(7,)]


def test_run_lock_follows_symbolic_links(world: World, tmp_path: Path) -> None:
    world.sync()
    link = tmp_path / "link.db"
    try:
        link.symlink_to(world.db_path)
    except OSError:
        pytest.skip("symbolic links need a privilege here")

    with run_lock.hold(world.db_path, datetime.now(UTC)), pytest.raises(LockedError):
        run_sync(world.config(sqlite_db_path=link), ENTITIES)


def test_interrupted_log_counts_committed_records(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = database_states.save_checkpoint
    calls: list[str] = []

    def interrupt(connection: Any, name: str, checkpoint: Any) -> None:
        calls.append(name)
        if len(calls) == 2:  # the rows of its page are written, and not committed
            raise KeyboardInterrupt
        saved(connection, name, checkpoint)

    monkeypatch.setattr(database_states, "save_checkpoint", interrupt)
    with pytest.raises(KeyboardInterrupt):
        world.sync(CANDIDATES_ONLY)

    ((stored,),) = world.query("SELECT count(*) FROM vin_candidates")
    logged = world.query("SELECT records_fetched, records_added FROM _sync_log")
    assert logged == [(stored, stored)]


def test_failed_read_unlinks_nothing(world, monkeypatch):
    monkeypatch.setattr(
        "dataverse_sync.dataverse.transport.Retries.get_backoff_time", lambda _: 0.0
    )
    world.sync()
    before = world.copy("accounts")
    world.wait()
    for record_id in world.emulator.rows("vin_candidates"):
        world.emulator.update("vin_candidates", record_id, {"vin_developerid": None})
    fault = Fault("status", match=rf"/{LINK_SET}", times=99, status=403)
    world.emulator.control.fault(fault)

    report = world.sync()

    assert [entity.name for entity in report.failed] == [LINK_SET]
    assert world.copy("accounts") == before
    world.emulator.control.faults.clear()
    assert world.sync().totals.deleted > 0
