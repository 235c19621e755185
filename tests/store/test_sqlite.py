"""The SQLite file: checked before anything is written, opened with care, its errors explained."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError

from dataverse_sync.errors import ConfigError, StorageError
from dataverse_sync.store import sqlite
from dataverse_sync.store.database import open_target, prepare_own_tables, transaction
from dataverse_sync.store.sqlite_sql import DB_VERSION

not_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere"
)
has_modes = pytest.mark.skipif(os.name != "posix", reason="Windows has no modes")


@contextmanager
def writing(path: Path) -> Iterator[Any]:
    """One transaction of the program's own writer."""
    with open_target(path).open_writer() as connection, transaction(connection):
        yield connection


def make_database(path: Path, version: int = 0) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (a TEXT)")
        connection.executemany("INSERT INTO t VALUES (?)", [("x" * 500,) for _ in range(200)])
        connection.execute(f"PRAGMA user_version = {version}")
        connection.commit()


def damage(path: Path, start: int, length: int) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\xff" * length)


# Whether it can be opened


def test_missing_file_passes_unmade(tmp_path, db_path):
    open_target(db_path).check()

    assert list(tmp_path.iterdir()) == []


def test_empty_file_passes(db_path):
    db_path.touch()

    open_target(db_path).check()

    assert db_path.stat().st_size == 0


def test_check_leaves_file_unchanged(db_path):
    with writing(db_path) as connection:
        prepare_own_tables(connection)
    before = db_path.read_bytes()

    open_target(db_path).check()

    assert db_path.read_bytes() == before


def test_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is a folder") as caught:
        open_target(tmp_path).check()

    assert "--db" in caught.value.hint


def test_missing_folder_may_be_made(tmp_path):
    open_target(tmp_path / "missing" / "too" / "x.db").check()

    assert list(tmp_path.iterdir()) == []


def test_file_in_place_of_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")

    with pytest.raises(ConfigError, match=r"x\.db: .*file is a file, not a folder"):
        open_target(tmp_path / "file" / "too" / "x.db").check()


def test_other_file_is_refused_unchanged(db_path):
    db_path.write_text("name,revenue\nLitware,1\n")

    with pytest.raises(ConfigError, match="is not a SQLite database"):
        open_target(db_path).check()

    assert db_path.read_text() == "name,revenue\nLitware,1\n"


def test_damaged_database_is_refused(db_path):
    make_database(db_path)
    damage(db_path, 100, 3000)

    with pytest.raises(ConfigError, match=r"cannot be opened .*malformed"):
        open_target(db_path).check()


def test_newer_database_is_refused(db_path):
    make_database(db_path, version=DB_VERSION + 1)

    with pytest.raises(ConfigError, match=r"newer version .*version 2, known here 1") as caught:
        open_target(db_path).check()

    assert "Update" in caught.value.hint


@not_root
def test_read_only_file_is_refused(db_path):
    make_database(db_path)
    db_path.chmod(0o400)

    with pytest.raises(ConfigError, match="cannot be read and written"):
        open_target(db_path).check()


@pytest.mark.parametrize(
    ("exists", "message"),
    [(True, "cannot be read and written"), (False, "the folder cannot be written")],
)
def test_unwritable_place_is_refused(db_path, monkeypatch, exists, message):
    if exists:
        make_database(db_path)
    monkeypatch.setattr(sqlite.os, "access", lambda path, mode: not mode & os.W_OK)

    with pytest.raises(ConfigError, match=message):
        open_target(db_path).check()
    open_target(db_path).check(to_write=False)


def test_unmakeable_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite.os, "access", lambda path, mode: not mode & os.W_OK)

    with pytest.raises(ConfigError, match="the folder cannot be made in"):
        open_target(tmp_path / "a" / "b" / "x.db").check()
    open_target(tmp_path / "a" / "b" / "x.db").check(to_write=False)


def test_unreadable_file_is_refused(db_path, monkeypatch):
    make_database(db_path)

    def refuse(*_args: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "open", refuse)

    with pytest.raises(ConfigError, match="Input/output error"):
        open_target(db_path).check()


def test_size_is_zero_before_file_exists(db_path):
    target = open_target(db_path)
    before = (target.exists(), target.size())
    make_database(db_path)

    assert before == (False, 0)
    assert (target.exists(), target.size()) == (True, db_path.stat().st_size)


# Opened


@has_modes
def test_new_file_belongs_to_owner_alone(db_path):
    with writing(db_path) as connection:
        prepare_own_tables(connection)
        modes = {path.name: path.stat().st_mode for path in db_path.parent.iterdir()}

    assert {name: oct(stat.S_IMODE(mode)) for name, mode in modes.items()} == dict.fromkeys(
        modes, oct(0o600)
    )
    assert "dataverse.db-wal" in modes


@has_modes
def test_existing_file_keeps_its_mode(db_path):
    make_database(db_path)
    db_path.chmod(0o640)

    with writing(db_path):
        pass

    assert stat.S_IMODE(db_path.stat().st_mode) == 0o640


def test_new_database_has_large_wal_pages(connection, db_path):
    assert not open_target(db_path).blocks_readers(connection)
    assert connection.exec_driver_sql("PRAGMA page_size").scalar_one() == 16384
    assert connection.exec_driver_sql("PRAGMA user_version").scalar_one() == DB_VERSION


def test_rollback_journal_blocks_readers(db_path):
    make_database(db_path)

    with open_target(db_path).open_reader() as connection:
        assert open_target(db_path).blocks_readers(connection)


def test_reader_makes_no_file(db_path):
    with pytest.raises(DBAPIError):
        open_target(db_path).open_reader()

    assert not db_path.exists()


def test_reader_cannot_write(db_path):
    make_database(db_path)

    with (
        open_target(db_path).open_reader(lasting=True) as reader,
        pytest.raises(DBAPIError, match="readonly"),
    ):
        reader.exec_driver_sql("DELETE FROM t")


def test_reader_and_writer_never_wait(db_path, monkeypatch):
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_S", 0.0)
    with writing(db_path) as writer:
        writer.exec_driver_sql("CREATE TABLE t (a)")
        writer.exec_driver_sql("INSERT INTO t VALUES (1)")
    count = "SELECT count(*) FROM t"

    with (
        open_target(db_path).open_reader(lasting=True) as reader,
        open_target(db_path).open_writer() as writer,
    ):
        reader.exec_driver_sql("BEGIN")
        before = reader.exec_driver_sql(count).scalar_one()
        with transaction(writer):
            writer.exec_driver_sql("INSERT INTO t VALUES (2)")
            during = reader.exec_driver_sql(count).scalar_one()
        after = reader.exec_driver_sql(count).scalar_one()
        reader.exec_driver_sql("COMMIT")
        then = reader.exec_driver_sql(count).scalar_one()

    assert (before, during, after, then) == (1, 1, 1, 2)


def test_brief_reader_leaves_no_file(db_path):
    with writing(db_path) as writer:
        writer.exec_driver_sql("CREATE TABLE t (a)")
    assert [path.name for path in db_path.parent.iterdir()] == [db_path.name]

    open_target(db_path).check()

    assert [path.name for path in db_path.parent.iterdir()] == [db_path.name]


def test_brief_reader_sees_committed_rows(db_path):
    with open_target(db_path).open_writer() as writer:
        with transaction(writer):
            writer.exec_driver_sql("CREATE TABLE t (a)")

        with open_target(db_path).open_reader() as reader:
            found = reader.exec_driver_sql("SELECT count(*) FROM t").scalar_one()

    assert found == 0


def test_path_may_hold_url_signs(tmp_path):
    path = tmp_path / "50% of #1?.db"

    with writing(path) as writer:
        writer.exec_driver_sql("CREATE TABLE t (a)")
    open_target(path).check()

    assert path.stat().st_size > 0
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("lasting", [False, True])
def test_reader_rolls_back_killed_writer(db_path, lasting):
    """Where write-ahead logging does not work, a killed writer leaves a journal."""
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

    with open_target(db_path).open_reader(lasting=lasting) as reader:
        found = reader.exec_driver_sql("SELECT DISTINCT a FROM t").scalars().all()

    assert found == ["old"]


@pytest.mark.skipif(os.name == "nt", reason="a symbolic link needs a privilege on Windows")
def test_reader_follows_link_to_written_file(db_path, tmp_path):
    """SQLite keeps the write-ahead log beside the file, not beside a link to it."""
    link = tmp_path / "link.db"
    link.symlink_to(db_path)
    with closing(sqlite3.connect(db_path, isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("CREATE TABLE t (a)")

        with open_target(link).open_reader() as reader:
            found = reader.exec_driver_sql("SELECT count(*) FROM t").scalar()

    assert found == 0


# Integrity


def test_integrity_of_whole_file_is_ok(connection, db_path):
    assert open_target(db_path).check_integrity(connection) == "ok"


def test_integrity_names_what_is_damaged(db_path):
    make_database(db_path)
    damage(db_path, 8192, 30000)

    with open_target(db_path).open_reader() as reader:
        found = open_target(db_path).check_integrity(reader)

    assert "Page 6" in found


# Errors


def test_full_disk_says_the_way_out(db_path):
    with open_target(db_path).open_writer() as connection:
        with transaction(connection):
            prepare_own_tables(connection)
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        connection.rollback()

        with pytest.raises(StorageError, match="full") as caught, transaction(connection):
            connection.exec_driver_sql("CREATE TABLE t (a)")

    assert str(db_path) in caught.value.message
    assert "Free some space" in caught.value.hint


def test_endless_lock_says_the_way_out(db_path, monkeypatch):
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_S", 0.05)
    make_database(db_path)
    with writing(db_path):
        pass

    with closing(sqlite3.connect(db_path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with (
            open_target(db_path).open_writer() as connection,
            pytest.raises(StorageError, match="locked") as caught,
            transaction(connection),
        ):
            pytest.fail("the transaction began")

    assert "Another program" in caught.value.hint


def test_damaged_file_says_the_way_out(db_path):
    make_database(db_path)
    damage(db_path, 8192, 30000)

    with (
        open_target(db_path).open_writer() as connection,
        pytest.raises(StorageError, match="malformed") as caught,
        transaction(connection),
    ):
        connection.exec_driver_sql("SELECT count(a || 'x') FROM t").scalar_one()

    assert "backup" in caught.value.hint


def test_other_errors_point_to_permissions(db_path):
    with (
        open_target(db_path).open_writer() as connection,
        pytest.raises(StorageError, match="readonly") as caught,
        transaction(connection),
    ):
        connection.exec_driver_sql("PRAGMA query_only = 1")
        connection.exec_driver_sql("CREATE TABLE t (a)")

    assert "permissions" in caught.value.hint


def test_driver_errors_are_explained_too(connection):
    with pytest.raises(StorageError, match="Could not decode"), transaction(connection):
        raise sqlite3.OperationalError("Could not decode to UTF-8 column 'x'")


def test_failed_transaction_leaves_nothing(db_path):
    with writing(db_path) as connection:
        connection.exec_driver_sql("CREATE TABLE t (a)")

    with open_target(db_path).open_writer() as connection:
        with pytest.raises(ZeroDivisionError), transaction(connection):
            connection.exec_driver_sql("INSERT INTO t VALUES (1)")
            _ = 1 / 0
        rows = connection.exec_driver_sql("SELECT * FROM t").all()

    assert rows == []
