"""``schema accept`` killed at any moment: database intact, lock fits, next command completes.

One real process is held at each of its moments while the folder is copied: a copy is what
a kill leaves there, since nothing of SQLite waits in the process to be written. At some moments
it is killed indeed.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ENTITIES, TABLES, World, insert
from processes import KILLED
from standstill import halted

from dataverse_sync import EntityConfig
from dataverse_sync.commands import schema as schema_drift
from dataverse_sync.commands.labels import run_labels
from dataverse_sync.emulator import Column, Emulator, Table
from dataverse_sync.redaction import Redactor
from dataverse_sync.schema.lock import dump_lock, load_lock
from dataverse_sync.store.database import open_target
from dataverse_sync.store.schema_lock import load_schema

pytestmark = pytest.mark.slow

VISITS = Table("vin_visit", "vin_visits", "vin_visitid", [Column("vin_name", "String")])


class Drifted:
    """A synced copy of an environment whose columns have changed since."""

    def __init__(self, emulator: Emulator, folder: Path) -> None:
        self.emulator = emulator
        self.start = folder / "start"
        self.start.mkdir()
        world = self.world(self.start)
        world.write_entity_list()
        contacts = insert(emulator, "contacts", [{"fullname": str(n)} for n in range(25)])
        accounts = insert(
            emulator, "accounts", [{"name": str(n), "primarycontactid": n} for n in contacts]
        )
        candidates = [{"vin_number": n, "vin_developerid": key} for n, key in enumerate(accounts)]
        insert(emulator, "vin_candidates", candidates * 2)
        insert(emulator, "vin_products", [{"vin_name": str(n)} for n in range(45)])
        assert world.sync().ok
        emulator.add_column("vin_products", Column("vin_new", "Integer"))
        emulator.add_column("vin_products", Column("vin_newer", "String"))
        for number, key in enumerate(emulator.ids("vin_products")):
            emulator.update("vin_products", key, {"vin_new": number, "vin_newer": f"<{number}>"})
        assert world.sync().ok
        run_labels(world.config(), ENTITIES, (), Redactor(), lambda _: None)
        emulator.retype_column("vin_candidates", "vin_number", "String")
        emulator.drop_column("accounts", "name")
        world.wait()
        assert world.sync().ok
        (self.start / "dataverse.db-wal").unlink(missing_ok=True)
        undisturbed = self.copy(self.start, folder / "undisturbed")
        accept(undisturbed)
        self.accepted = everything(undisturbed)

    def world(self, folder: Path) -> World:
        world = World(self.emulator, folder, TABLES)
        world.page_size = 5000
        return world

    def copy(self, source: Path, target: Path) -> World:
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.db-shm"))
        return self.world(target)

    def halted(self, world: World, pattern: str, number: int, *command: str) -> Any:
        """Start ``schema accept`` as a process that pauses at these moments."""
        command = command or ("schema", "accept", "--drop")
        return halted(pattern, number, *command, folder=world.folder, settings=world.settings())


@pytest.fixture(scope="module")
def drifted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drifted]:
    with Emulator([*TABLES, VISITS]) as emulator:
        yield Drifted(emulator, tmp_path_factory.mktemp("drifted"))


def accept(world: World) -> None:
    failures = schema_drift.accept(
        world.config(), ENTITIES, (), Redactor(), drop=True, tell=lambda _: None
    )
    assert failures == []


def everything(world: World) -> dict[str, Any]:
    """Return all that an accept changes or must not change, ``sync_time`` included."""
    found: dict[str, Any] = dict(world.rows())
    found["sqlite_master"] = world.query("SELECT type, name, sql FROM sqlite_master ORDER BY 1, 2")
    found["_schema_lock"] = world.query("SELECT schema FROM _schema_lock")
    found["_sync_state"] = world.query("SELECT * FROM _sync_state ORDER BY 1")
    found["schema.json"] = world.schema_path.read_text(encoding="utf-8")
    return found


def assert_mended(drifted: Drifted, left: World, by_sync: bool, moment: str) -> None:
    """Check that a kill left the database intact, and the next command completes the accept."""
    assert left.query("PRAGMA integrity_check") == [("ok",)], moment
    locked = load_schema(open_target(left.db_path), left.schema_path, must_fit=False)
    assert locked.misfits == (), moment
    if by_sync:
        report = left.sync()
        assert report.ok, moment
        assert report.totals.fetched == 0, moment
        written = left.schema_path.read_text(encoding="utf-8")
        assert written == left.query("SELECT schema FROM _schema_lock")[0][0], moment
        assert written == dump_lock(locked.lock), moment
        left.execute("UPDATE _sync_state SET last_sync_time = NULL")
    accept(left)
    found = everything(left)
    for name, value in drifted.accepted.items():
        if name != "_sync_state":
            assert found[name] == value, f"{name}, {moment}"
    assert left.query("PRAGMA integrity_check") == [("ok",)], moment


# Reading changes nothing: between such moments a kill leaves the same.
MOMENTS = r"^after (?!SELECT|PRAGMA|BEGIN)|^before (COMMIT|REPLACE)"


def test_accept_killed_at_any_moment_mended(drifted: Drifted, tmp_path: Path) -> None:
    world = drifted.copy(drifted.start, tmp_path / "held")
    seen: list[str] = []
    kept: dict[int, str] = {}  # each commit, and every third of the others
    spilt = 0

    with drifted.halted(world, MOMENTS, 1) as held:
        while held.moment is not None:
            log = world.db_path.with_name("dataverse.db-wal")
            if held.moment.startswith("before COMMIT") and log.exists():
                spilt = max(spilt, log.stat().st_size)
            if "COMMIT" in held.moment or len(seen) % 3 == 0:
                kept[len(seen)] = held.moment
                drifted.copy(world.folder, tmp_path / f"{len(seen)}")
            seen.append(held.moment)
            held.go_on()
        assert held.process.wait(30) == 0
    for number, moment in kept.items():
        left = drifted.world(tmp_path / f"{number}")
        assert_mended(drifted, left, number % 2 == 0, f"{number}: {moment}")
        shutil.rmtree(left.folder)

    assert everything(world) == drifted.accepted
    assert len(seen) > 50
    assert spilt > 50_000  # there was something to take back


@pytest.mark.parametrize(
    ("place", "number"),
    [
        ("^after BEGIN", 1),
        ("^after ALTER TABLE vin_candidates RENAME", 1),
        ("^after INSERT INTO vin_candidates", 2),
        ("^after DROP TABLE _old_vin_candidates", 1),
        ("^before COMMIT", 1),
        ("^after COMMIT", 1),
        ("^before REPLACE", 1),
        ("^after REPLACE", 1),
        ("^after ALTER TABLE vin_products ADD", 1),
        ("^after UPDATE vin_products", 2),
        ("^after DROP VIEW", 1),
        ("^before COMMIT", 4),
        ("^before REPLACE", 5),
    ],
)
def test_killed_accept_completed_by_next(
    drifted: Drifted, tmp_path: Path, place: str, number: int
) -> None:
    world = drifted.copy(drifted.start, tmp_path / "killed")

    with drifted.halted(world, place, number) as held:
        moment = held.moment
        held.kill()

    assert moment is not None
    assert held.process.returncode == KILLED
    assert_mended(drifted, world, number % 2 == 0, moment)


def test_accept_killed_repeatedly_completes(drifted: Drifted, tmp_path: Path) -> None:
    world = drifted.copy(drifted.start, tmp_path / "killed")

    for _ in range(5):
        with drifted.halted(world, "^before REPLACE", 2) as held:
            held.kill()
    accept(world)

    assert everything(world) == drifted.accepted


def test_lock_survives_two_killed_accepts(drifted: Drifted, tmp_path: Path) -> None:
    world = drifted.copy(drifted.start, tmp_path / "killed")
    committed = "^after COMMIT of .*INSERT INTO _schema_lock"

    for name in ("vin_products", "accounts"):
        command = ("schema", "accept", "--drop", name)
        with drifted.halted(world, committed, 1, *command) as held:
            assert held.moment is not None
            held.kill()

    lock = load_schema(open_target(world.db_path), world.schema_path, must_fit=False).lock
    assert lock["vin_products"].has("vin_new")
    assert not lock["accounts"].has("name")
    assert_mended(drifted, world, True, "after two")


def test_lock_survives_killed_accept_and_sync(drifted: Drifted, tmp_path: Path) -> None:
    world = drifted.copy(drifted.start, tmp_path / "killed")
    committed = "^after COMMIT of .*INSERT INTO _schema_lock"
    accepting = ("schema", "accept", "--drop", "vin_products")

    with drifted.halted(world, committed, 1, *accepting) as held:
        held.kill()
    more = [*ENTITIES, EntityConfig("vin_visits")]
    world.write_entity_list(more)
    with drifted.halted(world, committed, 1, "sync") as held:
        assert held.moment is not None
        held.kill()

    lock = load_schema(open_target(world.db_path), world.schema_path, must_fit=False).lock
    assert lock["vin_products"].has("vin_new")
    assert "vin_visits" in lock
    report = world.sync(more)
    assert report.ok
    assert load_lock(world.schema_path) == lock
