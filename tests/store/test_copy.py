"""Opening a copy: the database checked, its schema loaded, the run lock held if it is written."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from dataverse_sync import EntityConfig
from dataverse_sync.errors import ConfigError, LockedError, StorageError
from dataverse_sync.model import Column, Entity
from dataverse_sync.schema.lock import load_lock
from dataverse_sync.store.database import open_target, prepare_own_tables, transaction
from dataverse_sync.store.schema_lock import load_schema, open_copy, save_lock_copy, save_lock_file
from dataverse_sync.store.tables import build_table

NOW = datetime(2026, 11, 23, tzinfo=UTC)
KEYED = (Column("name", "TEXT"),)
ACCOUNTS = Entity("accounts", "accountid", (*KEYED, Column("accountid", "TEXT")), "metadata")
CONTACTS = Entity("contacts", "contactid", (*KEYED, Column("contactid", "TEXT")), "metadata")
BOTH = [EntityConfig("accounts"), EntityConfig("contacts")]


@pytest.fixture
def schema_path(tmp_path: Path) -> Path:
    return tmp_path / "schema" / "schema.json"


@pytest.fixture
def target(db_path, schema_path):
    """A database with the table of accounts, and both entities locked."""
    target = open_target(db_path)
    lock = {"accounts": ACCOUNTS, "contacts": CONTACTS}
    with target.open_writer() as connection, transaction(connection):
        prepare_own_tables(connection)
        build_table(ACCOUNTS).table.create(connection)
        save_lock_copy(connection, lock, NOW)
    save_lock_file(schema_path, lock)
    return target


def test_copy_has_tables_that_exist(target, schema_path):
    with open_copy(target, schema_path) as copy:
        tables = copy.build_tables(BOTH)

    assert list(tables) == ["accounts"]
    assert tables["accounts"].entity == load_lock(schema_path)["accounts"]
    assert list(copy.lock) == ["accounts", "contacts"]


def test_unconfigured_table_is_left_out(target, schema_path):
    with open_copy(target, schema_path) as copy:
        assert copy.build_tables(BOTH[1:]) == {}


def test_run_lock_is_held_to_write(target, schema_path):
    held = []

    for write in (False, True):
        with open_copy(target, schema_path, write=write):
            held.append(target.is_held())

    assert held == [False, True]
    assert not target.is_held()


def test_held_database_is_read_not_written(target, schema_path):
    with target.hold(NOW):
        with open_copy(target, schema_path) as copy:
            assert copy.build_tables(BOTH)
        with pytest.raises(LockedError), open_copy(target, schema_path, write=True):
            pytest.fail("opened")


def test_missing_database_is_one_error(db_path, schema_path):
    target = open_target(db_path)

    with (
        pytest.raises(ConfigError, match="there is no database yet") as caught,
        open_copy(target, schema_path, write=True),
    ):
        pytest.fail("opened")
    with open_copy(target, schema_path, write=True, must_exist=False) as copy:
        assert copy.build_tables(BOTH) == {}

    assert "Run a sync first" in caught.value.hint
    assert not db_path.exists()


def test_other_file_is_refused(db_path, schema_path):
    db_path.write_text("name\n")

    with (
        pytest.raises(ConfigError, match="is not a SQLite database"),
        open_copy(open_target(db_path), schema_path),
    ):
        pytest.fail("opened")


def test_misfit_is_refused_unless_allowed(target, schema_path, db_path):
    save_lock_file(schema_path, {"accounts": Entity("accounts", "name", KEYED, "metadata")})

    with (
        pytest.raises(ConfigError, match="does not fit the database") as caught,
        open_copy(target, schema_path),
    ):
        pytest.fail("opened")
    with open_copy(target, schema_path, must_fit=False) as copy:
        misfits = copy.misfits

    assert f"{schema_path} does not fit the database {db_path}" in caught.value.message
    assert misfits == ("table accounts has the key ['accountid'], not name",)


# The two homes of the lock


def test_missing_file_is_taken_from_database(target, schema_path):
    schema_path.unlink()

    found = load_schema(target, schema_path)

    assert list(found.lock) == ["accounts", "contacts"]
    assert not found.is_file_current


def test_replaced_file_is_behind(target, schema_path):
    with target.open_writer() as connection, transaction(connection):
        save_lock_copy(connection, {"accounts": ACCOUNTS}, NOW)

    found = load_schema(target, schema_path)

    assert list(found.lock) == ["accounts"]
    assert not found.is_file_current


def test_file_goes_before_the_copy(target, schema_path):
    more = Entity("accounts", "accountid", (*ACCOUNTS.columns, Column("x", "REAL")), "metadata")
    save_lock_file(schema_path, {"accounts": more})

    found = load_schema(target, schema_path, must_fit=False)

    assert found.lock["accounts"].has("x")
    assert list(found.lock) == ["accounts", "contacts"]


def test_unwritable_lock_file_is_explained(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(StorageError, match="cannot be written") as caught:
        save_lock_file(tmp_path / "file" / "schema.json", {})

    assert "--schema" in caught.value.hint
