"""Bookmarks, checkpoints, the run log, the lock's copy and the drift, as the tables keep them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from dataverse_sync.errors import ConfigError
from dataverse_sync.model import Column, Counts, Drift, Entity
from dataverse_sync.moments import parse_timestamp
from dataverse_sync.schema.lock import dump_lock
from dataverse_sync.store import schema_lock, sync_state
from dataverse_sync.store.sync_state import Checkpoint, EntityState, next_bookmark

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
ACCOUNTS = Entity("accounts", "accountid", (Column("accountid", "TEXT"),), "metadata", "account")
CHECKPOINT = Checkpoint(
    next_link="https://org.crm.dynamics.com/api/data/v9.2/accounts?$skiptoken=%3Ccookie%20/%3E",
    page=7,
    since="2026-11-22T00:00:00Z",
    first_request_at=NOON.isoformat(),
    seen_max="2026-11-23T09:00:00Z",
    fresh=True,
    full_asked=True,
)

MOMENTS = st.datetimes(
    min_value=NOON.replace(year=2000, tzinfo=None),
    max_value=NOON.replace(year=2040, tzinfo=None),
    timezones=st.just(UTC),
)


def as_service_writes(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


# Bookmarks


@given(seen=MOMENTS, asked_at=MOMENTS)
def test_bookmark_is_held_back(seen, asked_at):
    bookmark = parse_timestamp(next_bookmark(as_service_writes(seen), asked_at))

    assert bookmark is not None
    assert bookmark <= asked_at - timedelta(minutes=2)
    assert bookmark <= seen


@given(
    asked_at=MOMENTS,
    late=st.integers(min_value=-300, max_value=300),
    digits=st.integers(0, 999_999),
)
def test_bookmark_is_newest_or_limit(asked_at, late, digits):
    limit = asked_at - timedelta(seconds=121)
    seen = (limit + timedelta(seconds=late)).replace(microsecond=digits)

    bookmark = parse_timestamp(next_bookmark(seen.isoformat(), asked_at))

    assert bookmark == (seen if seen <= limit else limit.replace(microsecond=0))


def test_old_newest_is_kept_as_written():
    assert next_bookmark("2026-11-23T11:57:58.1230000Z", NOON) == "2026-11-23T11:57:58.1230000Z"


@pytest.mark.parametrize("seen", [None, "", "yesterday"])
def test_nothing_seen_gives_no_bookmark(seen):
    assert next_bookmark(seen, NOON) is None


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z", "2024-01-02T00:00:00Z"),
        ("2024-01-01T00:00:00.5Z", "2024-01-01T00:00:00Z", "2024-01-01T00:00:00.5Z"),
        ("2024-01-01T02:00:00+02:00", "2024-01-01T00:00:01Z", "2024-01-01T00:00:01Z"),
        (None, "2024-01-01T00:00:00Z", "2024-01-01T00:00:00Z"),
        ("2024-01-01T00:00:00Z", None, "2024-01-01T00:00:00Z"),
        ("2024-01-01T00:00:00Z", "soon", "2024-01-01T00:00:00Z"),
        (None, None, None),
    ],
)
def test_later_of_two_moments(one, other, expected):
    assert sync_state.newest_of((one, other)) == expected


SAME_MOMENT = [f"2024-01-01T{hour:02}:00:00+{hour:02}:00" for hour in range(14)]
WRITTEN = ["2024-01-01T00:00:00Z", "2024-01-01T00:00:00.5Z", "2024-01-01T02:00:00+02:00", "2023"]


@given(st.lists(st.sampled_from([*WRITTEN, "2024-02-30T00:00:00Z", "soon", None, 7, ""])))
def test_newest_is_the_latest_moment(values):
    newest = sync_state.newest_of(values)

    moments = [parse_timestamp(value) for value in values if parse_timestamp(value)]
    assert parse_timestamp(newest) == max(moments, default=None)
    assert newest is None or newest in values


def test_first_of_equal_moments_is_newest():
    for at in range(14):
        assert sync_state.newest_of(SAME_MOMENT[at:]) == SAME_MOMENT[at]


# Checkpoints and states


def test_checkpoint_survives_saving(connection):
    sync_state.ensure_rows(connection, ["accounts"])

    sync_state.save_checkpoint(connection, "accounts", CHECKPOINT)

    assert sync_state.load_states(connection, ["accounts"])["accounts"].checkpoint == CHECKPOINT


@pytest.mark.parametrize(
    "text", [None, "", "{", "[]", "7", "null", '{"page": 1}', '{"next_link": "x", "later": 1}']
)
def test_unusable_checkpoint_is_none(text):
    assert sync_state.parse_checkpoint(text) is None


def test_only_named_columns_change(connection):
    sync_state.ensure_rows(connection, ["accounts", "contacts"])
    sync_state.set_state(connection, "accounts", last_timestamp="2024-01-01T00:00:00Z")

    sync_state.set_state(connection, "accounts", state="completed", records_count=3)
    sync_state.ensure_rows(connection, ["accounts"])

    assert sync_state.load_states(connection, ["accounts", "contacts"]) == {
        "accounts": EntityState("completed", "2024-01-01T00:00:00Z", records_count=3),
        "contacts": EntityState(),
    }


def test_entity_without_row_is_pending(connection):
    assert sync_state.load_states(connection, ["accounts"]) == {"accounts": EntityState("pending")}


# The run log


def test_each_entity_starts_a_log_row(connection):
    names = ["accounts", "contacts"]
    sync_state.ensure_rows(connection, [*names, "leads"])
    before = sync_state.start_entities(connection, "run1", names, NOON)

    after = sync_state.start_entities(connection, "run2", ["contacts"], NOON)

    log = sync_state.LOG.c
    rows = connection.execute(select(log.id, log.run_id, log.entity_name, log.status)).all()
    states = sync_state.load_states(connection, [*names, "leads"])
    assert [tuple(row) for row in rows] == [
        (before["accounts"], "run1", "accounts", "in_progress"),
        (before["contacts"], "run1", "contacts", "in_progress"),
        (after["contacts"], "run2", "contacts", "in_progress"),
    ]
    assert {name: state.state for name, state in states.items()} == {
        "accounts": "in_progress",
        "contacts": "in_progress",
        "leads": "pending",
    }
    assert sync_state.start_entities(connection, "run3", [], NOON) == {}


def test_log_row_holds_counts(connection):
    log_id = sync_state.start_entities(connection, "run1", ["accounts"], NOON)["accounts"]

    counts = Counts(fetched=10, added=1, updated=2, unchanged=7, deleted=4)
    sync_state.update_log(connection, log_id, counts, 5, status="completed", finished_at="then")

    row = connection.execute(select(sync_state.LOG)).one()
    assert tuple(row) == (
        *(log_id, "run1", "accounts", "2026-11-23T12:00:00.000Z", "then", "completed"),
        *(10, 1, 2, 7, 4, 5, None),
    )


def test_counts_are_loaded_from_the_log(connection):
    first, second = sync_state.start_entities(connection, "run1", ["a", "b"], NOON).values()
    counts = Counts(fetched=10, added=1, updated=2, unchanged=7, deleted=4)
    sync_state.update_log(connection, second, counts, 5)

    assert sync_state.load_counts(connection, [second]) == {second: counts}
    assert sync_state.load_counts(connection, [first, second])[first] == Counts()


def test_killed_run_is_closed_as_failed(connection):
    names = ["accounts", "contacts"]
    dead, done = sync_state.start_entities(connection, "run1", names, NOON).values()
    sync_state.update_log(connection, done, Counts(), 1, status="completed")

    closed = sync_state.close_dead_runs(connection, NOON + timedelta(hours=1))

    log = sync_state.LOG.c
    rows = connection.execute(select(log.id, log.status, log.finished_at, log.error)).all()
    assert closed == 1
    assert [tuple(row) for row in rows] == [
        (dead, "failed", "2026-11-23T13:00:00.000Z", sync_state.DIED),
        (done, "completed", None, None),
    ]
    assert sync_state.close_dead_runs(connection, NOON) == 0


# The lock's copy


def test_lock_copy_is_replaced(connection):
    contacts = Entity("contacts", "contactid", (Column("contactid", "TEXT"),), "sample")

    before = schema_lock.load_lock_copy(connection, "x.db")
    schema_lock.save_lock_copy(connection, {"accounts": ACCOUNTS}, NOON)
    schema_lock.save_lock_copy(connection, {"accounts": ACCOUNTS, "contacts": contacts}, NOON)

    assert before == ({}, None)
    assert schema_lock.load_lock_copy(connection, "x.db") == (
        {"accounts": ACCOUNTS, "contacts": contacts},
        dump_lock({"accounts": ACCOUNTS}),
    )


def test_same_lock_replaces_nothing(connection):
    schema_lock.save_lock_copy(connection, {"accounts": ACCOUNTS}, NOON)

    schema_lock.save_lock_copy(connection, {"accounts": ACCOUNTS}, NOON + timedelta(days=1))

    row = connection.execute(select(schema_lock.SCHEMA_LOCK)).one()
    assert row.locked_at == "2026-11-23T12:00:00.000Z"
    assert row.replaces is None


def test_damaged_lock_copy_is_named(connection):
    schema_lock.save_lock_copy(connection, {"accounts": ACCOUNTS}, NOON)
    connection.exec_driver_sql("UPDATE _schema_lock SET schema = '{'")

    with pytest.raises(ConfigError, match=r"x\.db, table _schema_lock: damaged"):
        schema_lock.load_lock_copy(connection, "x.db")


# Drift

ADDED = Drift("accounts", "column_added", "revenue", None, "REAL")
RETYPED = Drift("accounts", "type_changed", "size", "TEXT", "INTEGER")


def changes(connection) -> list[tuple[str, str | None, str, str]]:
    table = schema_lock.SCHEMA_CHANGES.c
    query = select(table.run_id, table.column_name, table.change, table.severity)
    return [tuple(row) for row in connection.execute(query.order_by(table.id))]


def record(connection, run_id: str, *drift: Drift, compared: tuple[str, ...] = ("accounts",)):
    schema_lock.record_drift(connection, run_id, drift, compared, NOON)


def test_drift_row_is_complete(connection):
    record(connection, "run1", RETYPED)

    row = connection.execute(select(schema_lock.SCHEMA_CHANGES)).one()
    assert tuple(row)[1:-1] == (
        *("run1", "accounts", "size", "type_changed", "breaking", "TEXT", "INTEGER"),
        "2026-11-23T12:00:00.000Z",
    )


def test_standing_drift_is_written_once(connection):
    record(connection, "run1", ADDED)
    record(connection, "run2", ADDED, ADDED, RETYPED)
    record(connection, "run3", RETYPED, ADDED)

    assert changes(connection) == [
        ("run1", "revenue", "column_added", "info"),
        ("run2", "size", "type_changed", "breaking"),
    ]


def test_returning_drift_is_written_again(connection):
    record(connection, "run1", ADDED)
    record(connection, "run2")
    record(connection, "run3", ADDED)

    assert [row[0] for row in changes(connection)] == ["run1", "run3"]


def test_uncompared_drift_still_stands(connection):
    record(connection, "run1", ADDED)
    record(connection, "run2", compared=("contacts",))
    record(connection, "run3", ADDED)

    assert [row[0] for row in changes(connection)] == ["run1"]


def test_checkpoint_is_kept_as_json(connection):
    sync_state.ensure_rows(connection, ["accounts"])

    sync_state.save_checkpoint(connection, "accounts", CHECKPOINT)

    text = connection.execute(select(sync_state.STATE.c.checkpoint)).scalar_one()
    assert json.loads(text)["page"] == 7
