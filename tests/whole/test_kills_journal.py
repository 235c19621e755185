"""A sync, completed or killed, where write-ahead logging does not work (a network drive)."""

from __future__ import annotations

import os
from typing import Any

import pytest
from conftest import World, insert
from standstill import halted, use_vfs

from dataverse_sync.commands.status import load_status
from dataverse_sync.store import sqlite

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="SQLite's unix-none is for Unix alone"),
]


@pytest.fixture
def without_wal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "URL", sqlite.URL)  # given back at the end
    use_vfs("unix-none")


def test_sync_without_wal_warns_and_copies(
    world: World, without_wal: None, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = world.sync(), world.sync()

    assert (first.ok, second.ok) == (True, True)
    assert "write-ahead logging does not work there" in caplog.text
    assert world.query("PRAGMA journal_mode") == [("delete",)]
    assert world.is_mirror("vin_candidates", "vin_products")


@pytest.mark.parametrize("place", ["^before COMMIT", "^after COMMIT"])
@pytest.mark.parametrize("what", ["INSERT INTO _schema_lock", "INSERT INTO vin_candidates"])
def test_killed_sync_without_wal_resumed(
    make_world: Any, monkeypatch: pytest.MonkeyPatch, place: str, what: str
) -> None:
    world: World = make_world()
    insert(world.emulator, "vin_candidates", [{"vin_name": "x" * 3000} for _ in range(400)])
    insert(world.emulator, "vin_products", [{"vin_name": "x" * 3000} for _ in range(400)])
    world.write_entity_list()
    settings = {**world.settings(), "STANDSTILL_VFS": "unix-none"}

    with halted(f"{place} of .*{what}", 1, "sync", folder=world.folder, settings=settings) as held:
        assert held.moment is not None
        held.kill()
    journal = world.db_path.with_name("dataverse.db-journal")
    assert journal.exists() == (place == "^before COMMIT")
    found = load_status(world.db_path, world.emulator.clock.now(), None)
    monkeypatch.setattr(sqlite, "URL", sqlite.URL)
    use_vfs("unix-none")
    report = world.sync()

    assert found is not None
    assert report.ok
    assert world.is_mirror("vin_candidates", "vin_products")
    assert world.query("PRAGMA integrity_check") == [("ok",)]
