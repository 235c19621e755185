"""What the run's own tables say, for every command that shows it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from run_tables import (
    DAY,
    NIGHT,
    REFUSED,
    add_change,
    add_deleted,
    add_failed,
    add_log,
    add_state,
    add_unfinished,
    writing,
)

from dataverse_sync.errors import ConfigError
from dataverse_sync.model import Counts
from dataverse_sync.store import run_lock
from dataverse_sync.store.database import open_target
from dataverse_sync.store.history import Change, History, LogEntry, Removals, Run, load_history
from dataverse_sync.store.sync_state import DIED

COUNTS = Counts(9, 3, 2, 3, 1)


def entry(name, status, seconds, counts=COUNTS):
    ended = None if seconds is None else NIGHT + timedelta(seconds=seconds)
    return LogEntry("r1", name, NIGHT, ended, status, counts, 2, None)


# Entities


def test_entity_has_state_and_newest_run(db_path):
    with writing(db_path) as connection:
        add_state(connection, "accounts", records_count=7, last_timestamp="2026-11-22T21:14Z")
        add_log(connection, "r0", "accounts", NIGHT - DAY)
        add_log(connection, "r1", "accounts", counts=(9, 3, 2, 3, 1))

    (found,) = load_history(db_path).entities

    assert (found.name, found.state, found.error) == ("accounts", "completed", None)
    assert (found.rows, found.bookmark) == (7, "2026-11-22T21:14Z")
    assert found.last_success_at == NIGHT
    assert found.last == entry("accounts", "completed", 41)


def test_entities_sorted_by_name(db_path):
    with writing(db_path) as connection:
        for name in ("contacts", "accounts", "teams"):
            add_state(connection, name, last_sync_time=None)

    found = load_history(db_path).entities

    assert [entity.name for entity in found] == ["accounts", "contacts", "teams"]
    assert {(entity.last, entity.last_success_at) for entity in found} == {(None, None)}


def test_failed_entity_keeps_its_error(db_path):
    with writing(db_path) as connection:
        add_state(connection, "accounts", state="failed", error=REFUSED)
        add_failed(connection)

    (found,) = load_history(db_path).entities

    assert (found.state, found.error, found.is_killed) == ("failed", REFUSED, False)
    assert found.last.error == REFUSED


# A killed run, and one under way


def test_killed_run_shown_as_failed(db_path):
    with writing(db_path) as connection:
        add_unfinished(connection, error="an older error")

    history = load_history(db_path, runs=1)

    (found,) = history.entities
    assert history.holder is None
    assert (found.state, found.error) == ("failed", f"accounts: {DIED}")
    assert (found.is_killed, found.saved.state) == (True, "in_progress")
    assert found.last == history.runs[0].entries[0]
    assert (found.last.status, found.last.error, found.last.duration_s) == ("failed", DIED, None)


def test_killed_run_is_shown_as_failed(db_path):
    with writing(db_path) as connection:
        add_state(connection, "accounts")  # completed, before the log said so
        add_log(connection, "r1", "accounts", seconds=None, status="in_progress")

    (found,) = load_history(db_path).entities

    assert (found.state, found.error, found.is_killed) == ("completed", None, False)
    assert (found.last.status, found.last.error) == ("failed", DIED)


def test_run_under_way_stays_in_progress(db_path):
    with writing(db_path) as connection:
        add_unfinished(connection)

    with run_lock.hold(db_path, NIGHT):
        history = load_history(db_path, runs=1)

    (found,) = history.entities
    assert "since 2026-11-23T02:00:00+00:00" in history.holder
    assert (found.state, found.error, found.is_killed) == ("in_progress", None, False)
    assert history.runs[0].status == found.last.status == "in_progress"


def test_run_begun_while_reading_not_killed(db_path, monkeypatch):
    with writing(db_path) as connection:
        add_unfinished(connection)
    answers = iter([False, True])
    monkeypatch.setattr(run_lock, "is_held", lambda _: next(answers))

    history = load_history(db_path, runs=1)

    assert history.holder
    assert history.entities[0].state == history.runs[0].status == "in_progress"


def test_run_ended_while_reading_not_killed(db_path, monkeypatch):
    with writing(db_path) as connection:
        add_unfinished(connection)
    answers = iter([True, False])
    monkeypatch.setattr(run_lock, "is_held", lambda _: next(answers))

    assert load_history(db_path).entities[0].state == "in_progress"


# Runs


def test_only_newest_runs_loaded(db_path):
    with writing(db_path) as connection:
        add_state(connection, "teams")
        add_log(connection, "r0", "teams", NIGHT - DAY)
        for day in range(4):
            add_log(connection, f"r{day}", "accounts", NIGHT + day * DAY)
            add_log(connection, f"r{day}", "contacts", NIGHT + day * DAY)

    history = load_history(db_path, runs=3)

    assert [run.run_id for run in history.runs] == ["r1", "r2", "r3"]
    assert [one.entity for one in history.runs[0].entries] == ["accounts", "contacts"]
    assert history.entities[0].last.run_id == "r0"  # the last run of an entity, however old


def test_entities_alone_unless_runs_asked(db_path):
    with writing(db_path) as connection:
        add_state(connection, "accounts")
        add_log(connection, "r1", "accounts")
        add_change(connection, "accounts")
        add_deleted(connection, "accounts", 1)

    history = load_history(db_path)

    assert history == History(entities=history.entities)


def test_run_as_long_as_slowest_entity():
    run = Run("r1", (entry("a", "completed", 4.0), entry("b", "failed", 9.0)))

    assert (run.started_at, run.duration_s, run.status, run.completed) == (NIGHT, 9.0, "failed", 1)
    assert (run.totals, run.requests) == (COUNTS + COUNTS, 4)
    assert [one.entity for one in run.failed] == ["b"]
    assert replace(run, entries=run.entries[:1]).status == "completed"


def test_run_without_end_in_progress():
    run = Run("r1", (entry("a", "failed", 4.0), entry("b", "in_progress", None)))

    assert (run.status, run.finished_at, run.duration_s) == ("in_progress", None, None)


def test_duration_never_negative():
    run = Run("r1", (entry("a", "completed", -5.0),))  # the clock was set back

    assert run.duration_s == run.entries[0].duration_s == 0.0


# Changes and removals


def test_schema_changes_newest_first(db_path):
    with writing(db_path) as connection:
        add_change(connection, "accounts", old_type="REAL", severity="breaking", standing=0)
        add_change(connection, "contacts", None, "entity_added", new_type=None)

    assert load_history(db_path, runs=1).changes == (
        Change("contacts", None, "entity_added", "info", None, None, NIGHT, True),
        Change("accounts", "rating", "column_added", "breaking", "REAL", "TEXT", NIGHT, False),
    )


def test_removals_counted_by_reason(db_path):
    with writing(db_path) as connection:
        add_deleted(connection, "accounts", 2)
        add_deleted(connection, "accounts", 3, "unlinked", NIGHT - DAY)
        add_deleted(connection, "contacts", 1, "not_returned")

    accounts, contacts = load_history(db_path, runs=1).removals

    assert accounts == Removals("accounts", {"deleted": 2, "unlinked": 3}, NIGHT)
    assert accounts.total == 5
    assert contacts == Removals("contacts", {"not_returned": 1}, NIGHT)


# What cannot be read


@pytest.mark.parametrize("kind", ["no file", "an empty file", "no tables", "no rows"])
def test_empty_before_first_sync(db_path, kind):
    if kind == "an empty file":
        db_path.touch()
    elif kind == "no tables":
        open_target(db_path).open_writer().close()
    elif kind == "no rows":
        with writing(db_path):
            pass

    assert load_history(db_path, runs=1) == History()


def test_running_known_without_a_database(db_path):
    with run_lock.hold(db_path, NIGHT):
        assert load_history(db_path).holder
        assert not db_path.exists()


def test_file_that_is_not_a_database(db_path):
    db_path.write_text("not a database, but long enough to have a header", encoding="utf-8")

    with pytest.raises(ConfigError, match="not a SQLite database"):
        load_history(db_path)


def test_database_of_another_program(db_path):
    with open_target(db_path).open_writer() as connection, connection.begin():
        connection.exec_driver_sql("CREATE TABLE _sync_state (x)")

    with pytest.raises(ConfigError, match=r"cannot be read \(no such table"):
        load_history(db_path)


def test_text_that_is_not_a_moment(db_path):
    with writing(db_path) as connection:
        add_state(connection, "accounts", last_sync_time="yesterday")

    with pytest.raises(ConfigError, match="'yesterday' is not a moment"):
        load_history(db_path)


def test_reading_changes_nothing(db_path):
    with writing(db_path) as connection:
        add_unfinished(connection)
    before = db_path.read_bytes()

    load_history(db_path, runs=1)

    assert db_path.read_bytes() == before
    assert list(db_path.parent.iterdir()) == [db_path]
