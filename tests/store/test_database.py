"""Opening the file with care, and writing rows only where they differ."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest
from conftest import raw
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataverse_sync.errors import ConfigError, StorageError
from dataverse_sync.model import Column, Counts, Entity
from dataverse_sync.store import database, upsert
from dataverse_sync.store.rows import to_rows
from dataverse_sync.store.tables import build_table

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

not_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere"
)


@pytest.fixture
def table(connection):
    ACCOUNTS.table.create(connection)
    return ACCOUNTS


def write(
    connection, *records: str, at: str = "2026-11-23T02:00:00.000Z", fresh: bool = False
) -> Counts:
    rows = to_rows(ACCOUNTS, [raw(record) for record in records], at)
    return upsert.upsert(connection, ACCOUNTS, rows, fresh=fresh)


def stored(connection) -> dict[str, tuple[object, ...]]:
    return {row[0]: tuple(row[1:]) for row in connection.exec_driver_sql("SELECT * FROM accounts")}


def make_database(path: Path, version: int = 0) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (a TEXT)")
        connection.executemany("INSERT INTO t VALUES (?)", [("x" * 500,) for _ in range(200)])
        connection.execute(f"PRAGMA user_version = {version}")
        connection.commit()


# Whether it can be opened


def test_a_path_that_does_not_exist_yet_is_fine_and_stays_so(tmp_path, db_path):
    database.check_file(db_path)

    assert list(tmp_path.iterdir()) == []


def test_an_empty_file_is_fine(db_path):
    db_path.touch()

    database.check_file(db_path)

    assert db_path.stat().st_size == 0


def test_a_database_of_this_version_is_left_as_it_is(db_path):
    engine = database.open_engine(db_path)
    with engine.begin() as connection:
        database.prepare_own_tables(connection)
    engine.dispose()
    before = db_path.read_bytes()

    database.check_file(db_path)

    assert db_path.read_bytes() == before


def test_a_folder_is_no_database(tmp_path):
    with pytest.raises(ConfigError, match="is a folder") as caught:
        database.check_file(tmp_path)

    assert "--db" in caught.value.hint


def test_a_missing_folder_is_named_and_not_made(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no folder .*missing"):
        database.check_file(tmp_path / "missing" / "x.db")

    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_refused_and_kept(db_path):
    db_path.write_text("name,revenue\nLitware,1\n")

    with pytest.raises(ConfigError, match="is no SQLite database"):
        database.check_file(db_path)

    assert db_path.read_text() == "name,revenue\nLitware,1\n"


def test_a_damaged_database_is_refused(db_path):
    make_database(db_path)
    with db_path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 3000)

    with pytest.raises(ConfigError, match=r"cannot be opened .*malformed"):
        database.check_file(db_path)


def test_a_database_of_a_newer_program_is_refused_with_both_versions(db_path):
    make_database(db_path, version=database.DB_VERSION + 1)

    with pytest.raises(ConfigError, match=r"newer version .*version 2, known here 1") as caught:
        database.check_file(db_path)

    assert "Update" in caught.value.hint


@not_root
def test_a_read_only_file_is_refused(db_path):
    make_database(db_path)
    db_path.chmod(0o400)

    with pytest.raises(ConfigError, match="cannot be read and written"):
        database.check_file(db_path)


@pytest.mark.parametrize(
    ("exists", "message"),
    [(True, "cannot be read and written"), (False, "folder cannot be written")],
)
def test_what_the_system_does_not_let_us_write_is_refused(db_path, monkeypatch, exists, message):
    if exists:
        make_database(db_path)
    monkeypatch.setattr(database.os, "access", lambda path, mode: not mode & os.W_OK)

    with pytest.raises(ConfigError, match=message):
        database.check_file(db_path)


def test_a_file_that_cannot_be_read_is_refused(db_path, monkeypatch):
    make_database(db_path)

    def refuse(*_args: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "open", refuse)

    with pytest.raises(ConfigError, match="Input/output error"):
        database.check_file(db_path)


@pytest.mark.skipif(os.name != "posix", reason="Windows has no modes")
def test_the_file_is_its_owners_alone(db_path):
    engine = database.open_engine(db_path)
    with engine.begin() as connection:
        database.prepare_own_tables(connection)
        modes = {path.name: path.stat().st_mode for path in db_path.parent.iterdir()}
    engine.dispose()

    assert {name: oct(stat.S_IMODE(mode)) for name, mode in modes.items()} == dict.fromkeys(
        modes, oct(0o600)
    )
    assert "dataverse.db-wal" in modes


def test_a_file_that_was_there_keeps_its_mode(db_path):
    make_database(db_path)
    db_path.chmod(0o640)

    with database.open_engine(db_path).begin():
        pass

    assert stat.S_IMODE(db_path.stat().st_mode) == 0o640


def test_a_new_database_is_in_wal_mode_with_large_pages(connection):
    assert database.journal_mode(connection) == "wal"
    assert connection.exec_driver_sql("PRAGMA page_size").scalar_one() == 16384
    assert connection.exec_driver_sql("PRAGMA user_version").scalar_one() == database.DB_VERSION


def test_a_reader_can_write_nothing_and_makes_no_file(db_path):
    reader = database.open_reader(db_path)

    with pytest.raises(database.DBAPIError):
        reader.connect()

    assert not db_path.exists()


def test_a_reader_and_the_writer_do_not_wait_for_each_other(db_path, monkeypatch):
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.0)
    engine = database.open_engine(db_path)
    with engine.begin() as writer:
        ACCOUNTS.table.create(writer)
        write(writer, ALICE)
    count = "SELECT count(*) FROM accounts"

    with (
        database.open_reader(db_path, lasting=True).connect() as reader,
        engine.connect() as writer,
    ):
        reader.exec_driver_sql("BEGIN")
        before = reader.exec_driver_sql(count).scalar_one()
        with database.transaction(writer):
            write(writer, BOB)
            during = reader.exec_driver_sql(count).scalar_one()
        after = reader.exec_driver_sql(count).scalar_one()
        reader.exec_driver_sql("COMMIT")
        then = reader.exec_driver_sql(count).scalar_one()

    assert (before, during, after, then) == (1, 1, 1, 2)


# What SQLite complains of


def test_a_full_disk_is_said_with_the_way_out(db_path):
    engine = database.open_engine(db_path)
    with engine.connect() as connection:
        with database.transaction(connection):
            database.prepare_own_tables(connection)
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        connection.rollback()

        with pytest.raises(StorageError, match="full") as caught, database.transaction(connection):
            ACCOUNTS.table.create(connection)

    assert str(db_path) in caught.value.message
    assert "Free some space" in caught.value.hint


def test_a_lock_that_does_not_end_is_said_with_the_way_out(db_path, monkeypatch):
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.05)
    engine = database.open_engine(db_path)
    with engine.begin() as connection:
        ACCOUNTS.table.create(connection)

    with closing(sqlite3.connect(db_path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with (
            engine.connect() as connection,
            pytest.raises(StorageError, match="locked") as caught,
            database.transaction(connection),
        ):
            pytest.fail("the transaction began")

    assert "Another program" in caught.value.hint


def test_a_damaged_file_is_said_with_the_way_out(db_path):
    make_database(db_path)
    with db_path.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * 30000)
    engine = database.open_engine(db_path)

    with (
        engine.connect() as connection,
        pytest.raises(StorageError, match="malformed") as caught,
        database.transaction(connection),
    ):
        connection.exec_driver_sql("SELECT count(a || 'x') FROM t").scalar_one()

    assert "backup" in caught.value.hint


def test_any_other_complaint_points_to_disk_and_permissions(connection, table):
    connection.exec_driver_sql("PRAGMA query_only = 1")
    with pytest.raises(database.DBAPIError) as caught:
        write(connection, ALICE)

    error = database.storage_error("x.db", caught.value)

    assert "readonly" in error.message
    assert "permissions" in error.hint


def test_a_transaction_that_fails_leaves_nothing(db_path):
    engine = database.open_engine(db_path)
    with engine.begin() as connection:
        ACCOUNTS.table.create(connection)

    with engine.connect() as connection:
        with pytest.raises(ZeroDivisionError), database.transaction(connection):
            write(connection, ALICE)
            _ = 1 / 0
        rows = stored(connection)

    assert rows == {}


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


def test_new_changed_and_unchanged_rows_are_counted_exactly(connection, table):
    write(connection, ALICE, BOB)

    counts = write(
        connection, ALICE, BOB.replace("null", "7", 1), '{"accountid":"c3"}', at="2026-11-24"
    )

    assert counts == Counts(fetched=3, added=1, updated=1, unchanged=1)


def test_an_unchanged_row_keeps_its_sync_time(connection, table):
    write(connection, ALICE, at="2026-11-23")

    write(connection, ALICE, BOB, at="2026-11-24")

    assert {key: row[3] for key, row in stored(connection).items()} == {
        "a1": "2026-11-23",
        "b2": "2026-11-24",
    }


def test_a_changed_row_loses_what_the_record_no_longer_holds(connection, table):
    write(connection, ALICE)

    counts = write(connection, '{"accountid":"a1","name":"Alice"}')

    assert counts.updated == 1
    assert stored(connection)["a1"][:3] == (None, None, "Alice")


def test_of_a_key_that_comes_twice_the_last_wins(connection, table):
    counts = write(connection, ALICE, BOB, ALICE.replace("Alice", "Ada"))

    assert counts == Counts(fetched=3, added=2, updated=0, unchanged=1)
    assert stored(connection)["a1"][2] == "Ada"


def test_a_row_can_be_written_whatever_is_stored(connection, table):
    write(connection, ALICE, at="2026-11-23")

    upsert.rewrite(connection, table, to_rows(table, [raw(ALICE)], "2026-11-24"))
    upsert.rewrite(connection, table, [])

    assert stored(connection)["a1"][3] == "2026-11-24"


def test_the_newest_modifiedon_is_found(connection, table):
    versionless = build_table(Entity("labels", "labelid", (Column("labelid", "TEXT"),), "sample"))
    before = upsert.find_newest(connection, table)
    write(connection, BOB, ALICE)

    assert before is None
    assert upsert.find_newest(connection, table) == "2024-01-02T00:00:00Z"
    assert upsert.find_newest(connection, versionless) is None


def test_no_rows_are_no_work(connection):
    assert upsert.upsert(connection, ACCOUNTS, []) == Counts()


def test_rows_are_counted_and_an_empty_table_is_known(connection, table):
    empty = upsert.is_empty(connection, table)
    write(connection, ALICE, BOB)

    assert empty
    assert not upsert.is_empty(connection, table)
    assert upsert.count_rows(connection, table) == 2


def test_tables_are_read_with_their_types_and_keys(connection, table):
    tables = database.read_tables(connection)

    assert tables["accounts"]["accountid"] == ("TEXT", True)
    assert tables["accounts"]["employees"] == ("INTEGER", False)
    assert "_sync_state" in tables


PAGES = st.lists(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 2)), max_size=8), max_size=5
)


@settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(pages=PAGES, fresh=st.booleans())
def test_counts_and_rows_agree_with_a_dictionary(connection, pages, fresh):
    ACCOUNTS.table.create(connection, checkfirst=True)
    connection.exec_driver_sql("DELETE FROM accounts")
    model: dict[str, int] = {}

    for page in pages:
        counts = write(
            connection,
            *(json.dumps({"accountid": key, "employees": number}) for key, number in page),
            fresh=fresh,
        )
        latest = dict(page)
        added = sum(key not in model for key in latest)
        updated = sum(key in model and model[key] != number for key, number in latest.items())
        assert counts == Counts(len(page), added, updated, len(page) - added - updated)
        model |= latest

    assert {key: row[0] for key, row in stored(connection).items()} == model


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


@settings(
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(keys=KEYS, data=st.data())
def test_unchanged_is_what_is_stored_under_that_key(connection, monkeypatch, keys, data):
    """Whatever lies where in the file, and whoever changed a row or its key by hand."""
    ACCOUNTS.table.create(connection, checkfirst=True)
    connection.exec_driver_sql("DELETE FROM accounts")
    monkeypatch.setattr(upsert, "ROWS_PER_CALL", 4)
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

    unchanged = upsert.find_unchanged(connection, ACCOUNTS, keys, [raw(texts[key]) for key in keys])

    assert unchanged == set(there)


def test_records_that_come_as_they_lie_take_one_look_for_many(connection, table, monkeypatch):
    monkeypatch.setattr(upsert, "ROWS_PER_CALL", 4)
    texts = {f"k{n}": json.dumps({"accountid": f"k{n}"}) for n in range(10)}
    write(connection, *texts.values())
    looks: list[str] = []
    connection.connection.driver_connection.set_trace_callback(looks.append)

    unchanged = upsert.find_unchanged(
        connection, table, list(texts), [raw(text) for text in texts.values()]
    )

    assert unchanged == set(texts)
    assert len(looks) == 3


def test_rows_too_long_to_be_joined_are_looked_at_one_by_one(connection, table):
    texts = [json.dumps({"accountid": f"k{n}", "name": "x" * 200_000}) for n in range(5)]
    write(connection, *texts)
    connection.connection.driver_connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 500_000)
    keys = [f"k{n}" for n in range(5)]

    same = upsert.find_unchanged(connection, table, keys, [raw(text) for text in texts])
    short = upsert.find_unchanged(connection, table, keys, [raw("{}")] * 5)

    assert (same, short) == (set(keys), set())


@pytest.mark.parametrize("name", ["rowid", "ROWID", "_rowid_"])
def test_a_column_with_sqlites_name_for_the_row_takes_no_scan(connection, name):
    columns = (Column(name, "INTEGER"), Column("oid", "INTEGER"))
    things = build_table(Entity("things", "thingid", columns[: 1 + (name == "rowid")], "metadata"))
    things.table.create(connection)
    records = [raw(json.dumps({"thingid": f"t{n}", name: 9 - n})) for n in range(9)]
    upsert.upsert(connection, things, to_rows(things, records, "2026-11-23"))

    same = upsert.find_unchanged(connection, things, [f"t{n}" for n in range(9)], records)

    assert same == {f"t{n}" for n in range(9)}
    plan = connection.exec_driver_sql(
        "EXPLAIN QUERY PLAN " + upsert._name(upsert._FROM_KEY_ON, things.table), ("t0",)
    )
    assert not [row[3] for row in plan if "SCAN" in row[3]]


def test_an_error_of_the_driver_itself_can_be_acted_on(connection):
    with (
        pytest.raises(StorageError, match="Could not decode"),
        database.transaction(connection),
    ):
        raise sqlite3.OperationalError("Could not decode to UTF-8 column 'x'")


def test_a_brief_reader_leaves_no_file_beside_a_database_that_nobody_writes(db_path: Path) -> None:
    with database.open_engine(db_path).connect() as writer, database.transaction(writer):
        writer.exec_driver_sql("CREATE TABLE t (a)")
    assert [path.name for path in db_path.parent.iterdir()] == [db_path.name]

    database.check_file(db_path)

    assert [path.name for path in db_path.parent.iterdir()] == [db_path.name]


def test_a_brief_reader_sees_what_a_writer_has_committed(db_path: Path) -> None:
    with database.open_engine(db_path).connect() as writer:
        with database.transaction(writer):
            writer.exec_driver_sql("CREATE TABLE t (a)")

        with database.open_reader(db_path).connect() as reader:
            found = reader.exec_driver_sql("SELECT count(*) FROM t").scalar_one()

    assert found == 0


def test_a_path_may_hold_what_a_url_may_not(tmp_path: Path) -> None:
    path = tmp_path / "50% of #1?.db"

    with database.open_engine(path).connect() as writer, database.transaction(writer):
        writer.exec_driver_sql("CREATE TABLE t (a)")
    database.check_file(path)

    assert path.stat().st_size > 0
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("lasting", [False, True])
def test_a_reader_takes_back_what_a_killed_writer_left_without_write_ahead_logging(
    db_path: Path, lasting: bool
) -> None:
    journal = db_path.with_name(db_path.name + "-journal")
    with closing(sqlite3.connect(db_path, isolation_level=None)) as writer:
        writer.execute("CREATE TABLE t (a, b)")
        writer.executemany("INSERT INTO t VALUES (?, ?)", [("old", "x" * 3000)] * 200)
        writer.execute("PRAGMA synchronous = OFF")  # its journal is whole at any moment
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE t SET a = 'new'")
        left = journal.read_bytes()
        writer.execute("COMMIT")
    journal.write_bytes(left)  # killed after the pages were written, before the commit was told

    with database.open_reader(db_path, lasting=lasting).connect() as reader:
        found = reader.exec_driver_sql("SELECT DISTINCT a FROM t").scalars().all()

    assert found == ["old"]
