"""A sync killed at any moment and run again: same database, no committed page read twice.

Real processes over real HTTP. ``DATAVERSE_SYNC_KILLS`` says how many kill points are tried.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import LINK_SET, OLD, TABLES, World, insert
from processes import KILLED, make_environment
from standstill import halted

from dataverse_sync.emulator import Emulator, LoggedRequest

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("DATAVERSE_SYNC_KILLS", "50"))
PAGE = 20


@dataclass(frozen=True)
class Scene:
    """An environment that does not change, the start of a sync in it, and its required result."""

    emulator: Emulator
    start: Path  # a folder: empty, or with a database and its schema
    undisturbed: dict[str, list[Any]]
    requests: int  # that an undisturbed run sends

    def world(self, folder: Path) -> World:
        """Copy the start into this folder."""
        shutil.copytree(self.start, folder, dirs_exist_ok=True)
        world = World(self.emulator, folder, TABLES)
        world.write_entity_list()
        world.page_size = 5000  # as the command line asks for; the emulator sends less
        return world


def contents(world: World) -> dict[str, list[Any]]:
    """Return all that must be equal after two runs: rows, bookmarks and removals, without times."""
    rows = {name: sorted(world.copy(name).items()) for name in world.rows()}
    columns = "entity_name, state, last_timestamp, records_count, error, checkpoint"
    rows["_sync_state"] = world.query(f"SELECT {columns} FROM _sync_state ORDER BY 1")
    columns = "entity_name, record_id, reason, json_response"
    rows["_sync_deleted"] = world.query(f"SELECT {columns} FROM _sync_deleted ORDER BY 1, 2")
    return rows


def fill(emulator: Emulator) -> None:
    contacts = insert(emulator, "contacts", [{"fullname": str(n)} for n in range(70)])
    accounts = insert(
        emulator, "accounts", [{"name": key, "primarycontactid": key} for key in contacts]
    )
    candidates = insert(
        emulator, "vin_candidates", [{"vin_developerid": accounts[n // 3]} for n in range(90)]
    )
    insert(emulator, "vin_products", [{"vin_name": str(n)} for n in range(90)])
    pairs = zip(candidates[:60], accounts, strict=False)
    emulator.insert_many(
        LINK_SET, [{"vin_candidateid": one, "accountid": other} for one, other in pairs]
    )


def change(emulator: Emulator) -> None:
    """Change, create, backdate, delete and unlink in every table."""
    for name in ("vin_candidates", "vin_products"):
        keys = sorted(emulator.rows(name))
        for key in keys[:45]:
            emulator.update(name, key, {"vin_name": "changed"})
        for key in keys[45:50]:
            emulator.update(name, key, {"vin_name": "import"}, modifiedon=OLD)
        for key in keys[50:60]:
            emulator.delete(name, key)
        emulator.insert(name, {"vin_name": "new"})
    for key in sorted(emulator.rows(LINK_SET))[:25]:
        emulator.delete(LINK_SET, key)
    linked = sorted({str(row["accountid"]) for row in emulator.rows(LINK_SET).values()})
    for key in linked[:10]:
        emulator.update("accounts", key, {"name": "changed"})
    for key in linked[10:14]:
        emulator.delete("accounts", key)
    emulator.clock.advance(600)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Scene]]:
    """A first and an incremental sync, each of its own environment."""
    made = {}
    with Emulator(TABLES) as first, Emulator(TABLES) as later:
        for name, emulator in (("first", first), ("incremental", later)):
            emulator.control.max_page_size = PAGE
            fill(emulator)
            start = tmp_path_factory.mktemp(f"{name}-start")
            if emulator is later:
                world = World(emulator, start, TABLES)
                world.page_size = 5000
                assert world.sync().ok
                change(emulator)
            scene = Scene(emulator, start, {}, 0)
            world = scene.world(tmp_path_factory.mktemp(f"{name}-undisturbed"))
            assert world.sync().ok
            made[name] = Scene(emulator, start, contents(world), len(emulator.log))
        yield made


def run_command(world: World, *options: str) -> subprocess.Popen[str]:
    """Start ``python -m dataverse_sync sync`` as a process."""
    return subprocess.Popen(
        [sys.executable, "-m", "dataverse_sync", "sync", "--db", str(world.db_path), *options],
        cwd=world.folder,
        env=make_environment(**world.settings()),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill_at(world: World, number: int, delay_s: float, *options: str) -> None:
    """Start a sync, and kill it at its request of this number or a little later."""
    emulator = world.emulator
    emulator.log.clear()
    process: subprocess.Popen[str] | None = None
    started, arrived = threading.Event(), []

    def strike(request: LoggedRequest) -> None:
        arrived.append(request)
        if len(arrived) == number:
            started.wait(5)
            assert process is not None
            if delay_s:
                threading.Timer(delay_s, process.kill).start()
            else:
                process.kill()

    emulator.control.on_request = strike
    try:
        process = run_command(world, *options)
        started.set()
        _, errors = process.communicate(timeout=60)
    finally:
        emulator.control.on_request = None
    assert process.returncode in (0, KILLED), errors  # not dead of anything else
    assert len(arrived) >= number or process.returncode == 0


def pages_of(emulator: Emulator, name: str) -> list[str]:
    """Return the targets of an unfiltered set's pages of records, in the order of the log."""
    return [
        request.target
        for request in emulator.log
        if request.entity_set == name
        and request.kind == "data"
        and " eq " not in request.query.get("$filter", "")
    ]


def find_done(world: World, scene_name: str, name: str) -> tuple[set[str], set[str]]:
    """Return the ids that a run has to read, and those that are stored in their present version."""
    source, stored = world.source(name), stored_versions(world, name)
    due = set(source)
    if scene_name == "incremental":
        rows = world.emulator.rows(name)
        due = {key for key in rows if rows[key].get("modifiedon", OLD) != OLD}
    return due, {key for key in due if stored.get(key) == source[key]}


def committed_pages(world: World, scene_name: str) -> set[str]:
    """Return the pages of records that the killed run committed, computed from the rows.

    The emulator's log has the order of the pages, and every page but the last is full.
    """
    committed: set[str] = set()
    for name in ("vin_candidates", "vin_products", LINK_SET):
        due, done = find_done(world, scene_name, name)
        if name == LINK_SET and done == due:
            continue  # it has no modifiedon: once complete, it is read again each run
        count = -(-len(done) // PAGE) if done == due else len(done) // PAGE
        committed.update(pages_of(world.emulator, name)[:count])
    return committed


def stored_versions(world: World, name: str) -> dict[str, bytes]:
    if not world.db_path.exists():
        return {}
    try:
        return world.copy(name)
    except sqlite3.OperationalError:  # no such table yet
        return {}


def ids_asked_for_whole(world: World, name: str) -> set[str]:
    found: set[str] = set()
    for request in world.asked(name):
        found.update(re.findall(r"[0-9a-f-]{36}", request.query.get("$filter", "")))
    return found


def points(scene: str) -> list[tuple[str, int]]:
    return [(scene, n) for n in range(KILLS // 2)]


@pytest.mark.parametrize(("scene_name", "n"), [*points("first"), *points("incremental")])
def test_killed_run_resumed(scenes, tmp_path, scene_name, n):
    scene = scenes[scene_name]
    chance = random.Random(f"{scene_name} {n}")
    number = chance.randint(1, scene.requests)
    delay_s = chance.choice([0.0, 0.0, chance.uniform(0.0, 0.05)])
    world = scene.world(tmp_path)

    kill_at(world, number, delay_s)
    committed = committed_pages(world, scene_name)
    stored = {name: stored_versions(world, name) for name in ("accounts", "contacts")}
    if world.db_path.exists():
        assert world.query("PRAGMA integrity_check") == [("ok",)]
    report = world.sync()

    where = f"killed at request {number} of {scene.requests}, {delay_s * 1000:.0f} ms after"
    assert report.ok, where
    assert contents(world) == scene.undisturbed, where
    assert world.query("PRAGMA integrity_check") == [("ok",)]
    assert {request.target for request in world.asked()} & committed == set(), where
    for name, rows in stored.items():
        source = world.source(name)
        current = {key for key, text in rows.items() if source.get(key) == text}
        assert ids_asked_for_whole(world, name) & current == set(), where
    assert world.query("SELECT count(*) FROM _sync_log WHERE status = 'in_progress'") == [(0,)]


def test_run_killed_repeatedly_completes(scenes, tmp_path):
    scene = scenes["incremental"]
    world = scene.world(tmp_path)

    for number in (scene.requests // 4, scene.requests // 4, scene.requests // 4):
        kill_at(world, number, 0.0)
    process = run_command(world)
    _, errors = process.communicate(timeout=30)

    assert process.returncode == 0, errors
    assert contents(world) == scene.undisturbed


def test_killed_full_run_resumed(scenes, tmp_path):
    scene = scenes["incremental"]
    world = scene.world(tmp_path)

    kill_at(world, scene.requests // 2, 0.0, "--full")
    report = world.sync()

    assert report.ok
    assert contents(world) == scene.undisturbed


# Killed at places with a name


def stop_at(world: World, place: str, number: int = 1) -> Any:
    """Clear the log, and start a sync as a process that pauses at this moment."""
    world.emulator.log.clear()
    return halted(place, number, "sync", folder=world.folder, settings=world.settings())


def assert_resumed(world: World, scene_name: str, scene: Scene, moment: str) -> None:
    """Check that a kill left whole pages, and that the next run resumes after them."""
    committed = committed_pages(world, scene_name)
    if world.db_path.exists():
        assert world.query("PRAGMA integrity_check") == [("ok",)], moment
        assert_pages_are_whole(world, scene_name, moment)
    report = world.sync()
    assert report.ok, moment
    assert contents(world) == scene.undisturbed, moment
    assert world.query("PRAGMA integrity_check") == [("ok",)], moment
    assert {request.target for request in world.asked()} & committed == set(), moment
    assert world.query("SELECT count(*) FROM _sync_log WHERE status = 'in_progress'") == [(0,)]


def assert_pages_are_whole(world: World, scene_name: str, moment: str) -> None:
    """Check that only whole pages of every unfiltered set are stored."""
    for name in ("vin_candidates", "vin_products", LINK_SET):
        due, done = find_done(world, scene_name, name)
        assert done == due or len(done) % PAGE == 0, f"{name}, {moment}"


@pytest.mark.parametrize("phase", range(1, 7))
@pytest.mark.parametrize("scene_name", ["first", "incremental"])
def test_run_killed_between_phases_resumed(scenes, tmp_path, scene_name, phase):
    world = scenes[scene_name].world(tmp_path)

    with stop_at(world, f"^PHASE {phase}$") as held:
        moment = held.moment
        held.kill()

    assert moment is not None
    assert held.process.returncode == KILLED
    assert_resumed(world, scene_name, scenes[scene_name], moment)


PLACES = [
    ("first", "^after CREATE TABLE _sync_state", 1),
    ("first", "^after CREATE TABLE accounts", 1),
    ("first", "^before COMMIT of .*INSERT INTO _schema_lock", 1),
    ("first", "^after COMMIT of .*INSERT INTO _schema_lock", 1),  # and before the file
    ("first", "^before REPLACE schema.json", 1),
    ("first", "^before COMMIT of .*INSERT INTO vin_candidates", 1),
    ("first", "^after COMMIT of .*INSERT INTO vin_candidates", 1),
    ("first", "^after INSERT INTO vin_candidates", 3),
    ("first", "^before COMMIT of .*INSERT INTO accounts", 1),  # a batch of ids
    ("first", "^after COMMIT of .*INSERT INTO contacts", 1),
    ("incremental", "^before COMMIT of .*INSERT INTO vin_products", 1),
    ("incremental", "^after COMMIT of .*INSERT INTO vin_candidates", 2),
    ("incremental", "^after UPDATE _sync_state SET last_timestamp", 1),
    ("incremental", "^after UPDATE _sync_state SET delta_link", 1),
    ("incremental", "^after INSERT INTO _sync_deleted", 1),
    ("incremental", "^after DELETE FROM vin_products", 1),
    ("incremental", "^before COMMIT of .*DELETE FROM vin_candidates", 1),
    ("incremental", "^after COMMIT of .*DELETE FROM vin_products", 1),
    ("incremental", "^after COMMIT of .*DELETE FROM vin_vin_candidate_accountset", 1),
    ("incremental", "^before COMMIT of .*INSERT INTO accounts", 1),
    ("incremental", "^after DELETE FROM contacts", 1),  # what is no longer linked to
    ("incremental", "^before COMMIT of .*DELETE FROM accounts", 1),
]


@pytest.mark.parametrize(("scene_name", "place", "number"), PLACES)
def test_run_killed_inside_transaction_resumed(scenes, tmp_path, scene_name, place, number):
    world = scenes[scene_name].world(tmp_path)

    with stop_at(world, place, number) as held:
        moment = held.moment
        held.kill()

    assert moment is not None, "the place was not reached"
    assert held.process.returncode == KILLED
    assert_resumed(world, scene_name, scenes[scene_name], moment)


# Asked to end


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals to send to a process alone")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("place", [0.2, 0.5, 0.9])
def test_signal_ends_run_and_keeps_state(scenes, tmp_path, number, place):
    scene = scenes["first"]
    world = scene.world(tmp_path)
    release, at = threading.Event(), max(6, int(scene.requests * place))
    held = threading.Event()
    arrived: list[LoggedRequest] = []

    def hold(request: LoggedRequest) -> None:
        arrived.append(request)
        if len(arrived) >= at:
            held.set()
            release.wait(60)

    scene.emulator.log.clear()
    scene.emulator.control.on_request = hold
    try:
        process = run_command(world)
        assert held.wait(60), process.poll()
        time.sleep(0.1)
        process.send_signal(number)
        began = time.monotonic()
        _, errors = process.communicate(timeout=15)
        took_s = time.monotonic() - began
    finally:
        scene.emulator.control.on_request = None
        release.set()

    committed = committed_pages(world, "first")
    states = world.query("SELECT DISTINCT state FROM _sync_state")
    log = world.query("SELECT count(*) FROM _sync_log WHERE error LIKE 'interrupted%'")
    report = world.sync()
    assert took_s < 5
    assert process.returncode == 1
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert "in_progress" not in {state for (state,) in states}
    assert log[0][0] > 0
    assert report.ok
    assert contents(world) == scene.undisturbed
    assert {request.target for request in world.asked()} & committed == set()


def test_second_run_at_once_refused(scenes, tmp_path):
    scene = scenes["first"]
    world = scene.world(tmp_path)
    arrived, release = threading.Event(), threading.Event()

    def hold(_request: LoggedRequest) -> None:
        arrived.set()
        release.wait(60)

    scene.emulator.control.on_request = hold
    try:
        first = run_command(world)
        assert arrived.wait(60), first.poll()
        second = run_command(world)
        _, errors = second.communicate(timeout=20)
    finally:
        scene.emulator.control.on_request = None
        release.set()
    first.communicate(timeout=30)

    assert second.returncode == 4
    assert f"process {first.pid}" in errors
    assert first.returncode == 0
    assert contents(world) == scene.undisturbed


def test_scenes_cover_requests_and_removals(scenes):
    kinds = {
        name: {request.kind for request in scene.emulator.log} for name, scene in scenes.items()
    }
    assert scenes["first"].requests > 20
    assert kinds["incremental"] >= {"token", "metadata", "data", "thin", "delta"}
    reasons = {row[2] for row in scenes["incremental"].undisturbed["_sync_deleted"]}
    assert reasons == {"deleted", "not_returned", "unlinked"}
