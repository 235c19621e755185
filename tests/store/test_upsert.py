"""Records written as rows only where they differ, and counted exactly."""

from __future__ import annotations

import json
import sqlite3
from typing import Any
from unittest.mock import patch

import pytest
from conftest import raw
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataverse_sync.errors import PageError
from dataverse_sync.model import Column, Counts, Entity
from dataverse_sync.store import sqlite_sql, upsert
from dataverse_sync.store.database import dialect_of
from dataverse_sync.store.rows import to_rows
from dataverse_sync.store.tables import build_table
from dataverse_sync.store.upsert import Expected, Written, write_records

ACCOUNTS = build_table(
    Entity(
        "accounts",
        "accountid",
        (Column("name", "TEXT"), Column("employees", "INTEGER"), Column("modifiedon", "TEXT")),
        "metadata",
    )
)
ALICE = '{"accountid":"a1","name":"Alice","employees":3,"modifiedon":"2024-01-01T00:00:00Z"}'
BOB = '{"accountid":"b2","name":null,"employees":null,"modifiedon":"2024-01-02T00:00:00Z"}'
EXPECTED: tuple[Expected, ...] = ("changed", "same", "new")
with_one_database = settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture
def table(connection):
    ACCOUNTS.table.create(connection)
    return ACCOUNTS


def write(
    connection, *records: str, at: str = "2026-11-23T02:00:00.000Z", **options: Any
) -> Written:
    return write_records(connection, ACCOUNTS, [raw(record) for record in records], at, **options)


def stored(connection) -> dict[str, tuple[object, ...]]:
    return {row[0]: tuple(row[1:]) for row in connection.exec_driver_sql("SELECT * FROM accounts")}


def empty_table(connection) -> None:
    ACCOUNTS.table.create(connection, checkfirst=True)
    connection.exec_driver_sql("DELETE FROM accounts")


def find_unchanged(connection, table, texts: dict[str, str]) -> set[str]:
    records = [raw(text) for text in texts.values()]
    return dialect_of(connection).find_unchanged(connection, table, list(texts), records)


# Rows


def test_every_column_is_written(connection, table):
    write(connection, ALICE, BOB)

    assert stored(connection) == {
        "a1": (
            3,
            "2024-01-01T00:00:00Z",
            "Alice",
            "2026-11-23T02:00:00.000Z",
            "2024-01-01T00:00:00Z",
            ALICE,
        ),
        "b2": (
            None,
            "2024-01-02T00:00:00Z",
            None,
            "2026-11-23T02:00:00.000Z",
            "2024-01-02T00:00:00Z",
            BOB,
        ),
    }


def test_records_are_counted_exactly(connection, table):
    write(connection, ALICE, BOB)

    written = write(
        connection, ALICE, BOB.replace("null", "7", 1), '{"accountid":"c3"}', at="2026-11-24"
    )

    assert written.counts == Counts(fetched=3, added=1, updated=1, unchanged=1)
    assert written.keys == ["a1", "b2", "c3"]
    assert written.newest == "2024-01-02T00:00:00Z"


def test_unchanged_row_keeps_sync_time(connection, table):
    write(connection, ALICE, at="2026-11-23")

    write(connection, ALICE, BOB, at="2026-11-24")

    assert {key: row[3] for key, row in stored(connection).items()} == {
        "a1": "2026-11-23",
        "b2": "2026-11-24",
    }


def test_changed_row_loses_missing_values(connection, table):
    write(connection, ALICE)

    written = write(connection, '{"accountid":"a1","name":"Alice"}')

    assert written.counts.updated == 1
    assert stored(connection)["a1"][:3] == (None, None, "Alice")


@pytest.mark.parametrize("expected", EXPECTED)
def test_last_record_of_a_key_wins(connection, table, expected):
    written = write(connection, ALICE, BOB, ALICE.replace("Alice", "Ada"), expected=expected)

    assert written.counts == Counts(fetched=3, added=2, updated=0, unchanged=1)
    assert stored(connection)["a1"][2] == "Ada"


@pytest.mark.parametrize("expected", EXPECTED)
def test_only_wanted_records_are_written(connection, table, expected):
    upper = BOB.replace("b2", "B2")

    written = write(connection, ALICE, upper, wanted={"b2"}, expected=expected)

    assert (written.keys, written.counts.added) == (["B2"], 1)
    assert list(stored(connection)) == ["B2"]


def test_no_records_are_no_work(connection):
    assert write(connection) == Written(Counts(), [], None)


def test_rewrite_ignores_what_is_stored(connection, table):
    write(connection, ALICE, at="2026-11-23")

    upsert.rewrite(connection, table, to_rows(table, [raw(ALICE)], "2026-11-24"))
    upsert.rewrite(connection, table, [])

    assert stored(connection)["a1"][3] == "2026-11-24"


PAGES = st.lists(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 2)), max_size=8), max_size=5
)


@with_one_database
@given(pages=PAGES, expected=st.sampled_from(EXPECTED))
def test_counts_agree_with_a_dictionary(connection, pages, expected):
    empty_table(connection)
    model: dict[str, int] = {}

    for page in pages:
        texts = [json.dumps({"accountid": key, "employees": number}) for key, number in page]
        counts = write(connection, *texts, expected=expected).counts
        latest = dict(page)
        added = sum(key not in model for key in latest)
        updated = sum(key in model and model[key] != number for key, number in latest.items())
        assert counts == Counts(len(page), added, updated, len(page) - added - updated)
        model |= latest

    assert {key: row[0] for key, row in stored(connection).items()} == model


# What is tried first

RECORDS = st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 3)), max_size=12)
MOMENTS = ("2024-01-01T00:00:00Z", "2024-01-01T00:00:00.5Z", "2023")


def texts_of(records) -> list[str]:
    return [
        json.dumps({"accountid": key, "employees": size, "modifiedon": MOMENTS[size % 3]})
        for key, size in records
    ]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(there=RECORDS, coming=RECORDS, at_once=st.integers(1, 5))
def test_expectation_changes_no_outcome(connection, there, coming, at_once):
    outcomes = []

    for expected in EXPECTED:
        empty_table(connection)
        write(connection, *texts_of(there))
        with patch.object(upsert, "ROWS_PER_CALL", at_once):
            written = write(connection, *texts_of(coming), expected=expected)
        outcomes.append((sorted(written.keys), written.newest, written.counts, stored(connection)))

    assert outcomes[1] == outcomes[0]
    assert outcomes[2] == outcomes[0]


@pytest.mark.parametrize("expected", EXPECTED)
def test_bad_record_leaves_page_unwritten(connection, table, expected):
    with pytest.raises(PageError, match="has no accountid"):
        write(connection, ALICE, BOB, '{"employees": 3}', expected=expected)

    assert stored(connection) == {}


@pytest.mark.parametrize("member", ["accountid", "modifiedon", "text"])
@pytest.mark.parametrize("expected", EXPECTED)
def test_broken_text_is_never_unchanged(connection, table, member, expected):
    values = {"accountid": "a", "modifiedon": MOMENTS[0], "text": "x", member: "\ufffd"}
    text = json.dumps(values, ensure_ascii=False).encode()
    write_records(connection, table, [raw(text)], "now")
    broken = raw(text.replace("\ufffd".encode(), b"\xff"))

    with pytest.raises(PageError, match="not UTF-8"):
        write_records(connection, table, [broken], "now", expected=expected)


def test_rows_changed_by_hand_are_mended(connection, table):
    page = [json.dumps({"accountid": key, "employees": 1}) for key in "abc"]
    write(connection, *page)
    rows = "SELECT accountid, json_response FROM accounts ORDER BY accountid"
    before = connection.exec_driver_sql(rows).all()
    other = "SELECT json_response FROM accounts WHERE accountid = 'b'"
    connection.exec_driver_sql(
        f"UPDATE accounts SET json_response = ({other}) WHERE accountid = 'c'"
    )
    connection.exec_driver_sql("UPDATE accounts SET accountid = 'A' WHERE accountid = 'a'")

    write(connection, *page, expected="same")

    assert connection.exec_driver_sql(rows).all() == [("A", before[0][1]), *before]


# Whether a record is stored as it came

BY_HAND = [
    "",
    "accountid = 'x'",
    "accountid = CAST(accountid AS BLOB)",
    "json_response = json_response || ' '",
    "json_response = CAST(json_response AS BLOB)",
    "json_response = NULL",
]
KEYS = st.lists(
    st.text(alphabet="ab,\u00e9", min_size=1, max_size=3), min_size=1, max_size=12, unique=True
)


@settings(with_one_database, max_examples=150)
@given(keys=KEYS, data=st.data())
def test_unchanged_is_what_is_stored(connection, keys, data):
    """Whatever lies where in the file, and whoever changed a row or its key by hand."""
    empty_table(connection)
    there = data.draw(st.lists(st.sampled_from(keys), unique=True))
    if data.draw(st.booleans()):
        there.sort(key=keys.index)  # as they came
    texts = {
        key: json.dumps({"accountid": key, "name": "\u00fc"}, ensure_ascii=False) for key in keys
    }
    write(connection, *(texts[key] for key in there))
    by_hand = data.draw(st.sampled_from(BY_HAND))
    if there and by_hand:
        changed = data.draw(st.sampled_from(there))
        connection.exec_driver_sql(
            f"UPDATE accounts SET {by_hand} WHERE accountid = ?",
            (changed,),
        )
        there.remove(changed)

    assert find_unchanged(connection, ACCOUNTS, texts) == set(there)


def test_neighbours_take_one_look(connection, table, monkeypatch):
    monkeypatch.setattr(upsert, "ROWS_PER_CALL", 4)
    texts = [json.dumps({"accountid": f"k{n}"}) for n in range(10)]
    write(connection, *texts)
    looks: list[str] = []
    connection.connection.driver_connection.set_trace_callback(looks.append)

    written = write(connection, *texts, expected="same")

    assert written.counts == Counts(fetched=10, unchanged=10)
    assert len(looks) == 3


def test_long_records_are_compared_alone(connection, table):
    """SQLite holds no text longer than its limit: not even 3 of these as one."""
    texts = {
        key: json.dumps({"accountid": key, "name": "x" * 200_000}) for key in ("a", "b", "c", "d")
    }
    write(connection, *texts.values())
    connection.connection.driver_connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 500_000)

    same = find_unchanged(connection, table, texts)
    short = find_unchanged(connection, table, dict.fromkeys(texts, "{}"))

    assert (same, short) == (set(texts), set())


@pytest.mark.parametrize("name", ["rowid", "ROWID", "_rowid_"])
def test_column_named_rowid_takes_no_scan(connection, name):
    columns = (Column(name, "INTEGER"), Column("oid", "INTEGER"))
    things = build_table(Entity("things", "thingid", columns[: 1 + (name == "rowid")], "metadata"))
    things.table.create(connection)
    texts = {f"t{n}": json.dumps({"thingid": f"t{n}", name: 9 - n}) for n in range(9)}
    write_records(connection, things, [raw(text) for text in texts.values()], "2026-11-23")
    asked: list[str] = []
    connection.connection.driver_connection.set_trace_callback(asked.append)

    same = find_unchanged(connection, things, texts)

    connection.connection.driver_connection.set_trace_callback(None)
    plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {asked[0]}")
    assert same == set(texts)
    assert not [row[3] for row in plan if "SCAN things" in row[3]]


def test_column_named_rowid_loses_no_row(connection):
    things = build_table(Entity("things", "thingid", (Column("rowid", "INTEGER"),), "metadata"))
    things.table.create(connection)
    texts = [json.dumps({"thingid": f"t{n}"}) for n in range(5)]
    write_records(connection, things, [raw(text) for text in texts], "now")

    batches = list(sqlite_sql.iter_rows(connection, things.table, "things", ["json_response"], 2))

    assert [row[0] for batch in batches for row in batch] == texts
    assert [len(batch) for batch in batches] == [2, 2, 1]


# What a table holds


def test_newest_modifiedon_is_found(connection, table):
    versionless = build_table(Entity("labels", "labelid", (Column("labelid", "TEXT"),), "sample"))
    before = upsert.find_newest(connection, table)
    write(connection, BOB, ALICE)

    assert before is None
    assert upsert.find_newest(connection, table) == "2024-01-02T00:00:00Z"
    assert upsert.find_newest(connection, versionless) is None


def test_rows_are_counted(connection, table):
    empty = upsert.is_empty(connection, table)
    write(connection, ALICE, BOB)

    assert empty
    assert not upsert.is_empty(connection, table)
    assert upsert.count_rows(connection, table) == 2


def test_tables_read_with_types_and_keys(connection, table):
    tables = dialect_of(connection).read_tables(connection)

    assert tables["accounts"]["accountid"] == ("TEXT", True)
    assert tables["accounts"]["employees"] == ("INTEGER", False)
    assert "_sync_state" in tables


def test_statements_are_kept_byte_for_byte(connection):
    """Measured: other words for the same may be slower."""
    table = build_table(Entity("things", "id", (Column("x", "REAL"),), "metadata"))
    table.table.create(connection)
    asked: list[str] = []
    connection.connection.driver_connection.set_trace_callback(asked.append)

    for expected in ("changed", "new"):
        write_records(connection, table, [raw('{"id":"a","x":1.5}')], "now", expected=expected)
        connection.exec_driver_sql("DELETE FROM things")

    values = "VALUES ('a', 1.5, 'now', NULL, '{\"id\":\"a\",\"x\":1.5}')"
    insert = f"INSERT INTO things (id, x, sync_time, valid_from, json_response) {values}"
    assert [" ".join(text.split()) for text in asked if "DELETE" not in text] == [
        "SELECT id, json_response FROM things "
        "WHERE id IN (SELECT value FROM temp.json_each('[\"a\"]'))",
        f"{insert} ON CONFLICT (id) DO UPDATE SET x = excluded.x, sync_time = excluded.sync_time, "
        "valid_from = excluded.valid_from, json_response = excluded.json_response",
        f"{insert} ON CONFLICT (id) DO NOTHING",
    ]


# Odd keys and names


ODD_KEYS = ["a", "a\0b", "a\0", "\0", "a\\u0000b", "ä\0ö", "b"]


@pytest.mark.parametrize("expected", EXPECTED)
@pytest.mark.parametrize("order", [1, -1])
def test_keys_with_nul_are_found_and_counted(connection, table, expected, order):
    keys = ODD_KEYS[::order]
    records = [json.dumps({"accountid": key, "name": "x"}) for key in keys]
    changed = [json.dumps({"accountid": key, "name": "y"}) for key in keys]

    first = write(connection, *records[:5], expected="new")
    again = write(connection, *records[:5][::-1], expected=expected)
    both = write(connection, *changed[:2], *records[2:], expected=expected)

    assert first.counts == Counts(fetched=5, added=5)
    assert again.counts == Counts(fetched=5, unchanged=5)
    assert both.counts == Counts(fetched=7, added=2, updated=2, unchanged=3)
    assert {key: row[-1] for key, row in stored(connection).items()} == dict(
        zip(keys, [*changed[:2], *records[2:]], strict=True)
    )


def test_key_cut_at_nul_is_another_row(connection, table):
    write(connection, '{"accountid":"a","name":"x"}')
    written = write(connection, '{"accountid":"a\\u0000b","name":"x"}')

    assert written.counts == Counts(fetched=1, added=1)
