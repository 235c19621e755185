"""A damaged database ends every command with a message and exit status 1 or 2, never a traceback.

``DATAVERSE_SYNC_DAMAGES`` says how many damages of each kind are tried.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from conftest import World

from dataverse_sync import cli

SEEDS = int(os.environ.get("DATAVERSE_SYNC_DAMAGES", "1"))
PAGE = 16384
COMMANDS = [
    ("status",),
    ("status", "--json"),
    ("report",),
    ("check",),
    ("verify",),
    ("schema", "diff"),
    ("labels",),
    ("schema", "accept"),
    ("sync",),
    ("sync", "--full"),
]
OWN_TEXT = re.compile(rb"completed|202\d-|metadata|logical_name|vin_|TEXT|not_returned")
VALUES = (None, b"\xff\xfe", "x", "", -1, 1.5, 2**62, "9999-99-99", "[", "{}", "9" * 600, b"")


def flip_bytes(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice([1, 5, 50, 500])):
        data[chance.randrange(100, len(data))] = chance.randrange(256)


def damage_page_header(data: bytearray, chance: random.Random) -> None:
    page = chance.randrange(len(data) // PAGE)
    for _ in range(chance.choice([1, 3])):
        data[page * PAGE + (0 if page else 100) + chance.randrange(12)] = chance.randrange(256)


def overwrite_page(data: bytearray, chance: random.Random) -> None:
    page = chance.randrange(1, len(data) // PAGE)
    data[page * PAGE : (page + 1) * PAGE] = chance.choice([bytes(PAGE), chance.randbytes(PAGE)])


def truncate(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(1, len(data)) :]


def damage_file_header(data: bytearray, chance: random.Random) -> None:
    data[16 + chance.randrange(84)] = chance.randrange(256)


def damage_text(data: bytearray, chance: random.Random) -> None:
    spots = [found.start() for found in re.finditer(rb"[0-9a-z]", data[100:])]
    for spot in chance.choices(spots, k=chance.choice([5, 50, 1000])):
        data[100 + spot] = chance.choice(b"\xff\x80\xc3\x00-")


def damage_own_tables(data: bytearray, chance: random.Random) -> None:
    spots = [found.start() for found in OWN_TEXT.finditer(data)]
    for spot in chance.choices(spots, k=chance.choice([1, 5, 50])):
        data[spot + chance.randrange(-12, 12)] = chance.choice(b"\xff\x80\x00\x01\x07\x0d")


KINDS = [
    flip_bytes,
    damage_page_header,
    overwrite_page,
    truncate,
    damage_file_header,
    damage_text,
    damage_own_tables,
]


class Places:
    """A synced folder, and a copy of its files as they were."""

    def __init__(self, world: World, capsys: pytest.CaptureFixture[str]) -> None:
        self.world = world
        self.capsys = capsys
        self.good = world.db_path.read_bytes()
        self.lock = world.schema_path.read_bytes()

    def run(self, data: bytes, has_lock: bool, *command: str) -> tuple[int, str]:
        """Run a command on this database; returns its exit status and all that it printed."""
        for path in self.world.folder.glob("dataverse.db*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.world.db_path.write_bytes(data)
        self.world.schema_path.write_bytes(self.lock)
        if not has_lock:
            self.world.schema_path.unlink()
        status = cli.main(command)
        printed = self.capsys.readouterr()
        return status, printed.out + printed.err

    def expect_message(self, data: bytes, has_lock: bool, *command: str) -> None:
        status, printed = self.run(data, has_lock, *command)
        assert status in (0, 1, 2), (command, printed)
        assert "Traceback" not in printed, (command, printed)
        assert "unexpected error" not in printed, (command, printed)


@pytest.fixture
def places(
    world: World,
    no_settings: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Places:
    monkeypatch.chdir(world.folder)
    world.write_env_file()
    world.write_entity_list()
    world.sync()
    world.wait()
    for key in list(world.emulator.rows("vin_products"))[:2]:
        world.emulator.delete("vin_products", key)
    world.sync()
    assert cli.main(["labels"]) == 0
    return Places(world, capsys)


@pytest.mark.parametrize("damage", KINDS)
def test_damage_ends_with_message(
    places: Places, damage: Callable[[bytearray, random.Random], None]
) -> None:
    for seed in range(SEEDS):
        chance = random.Random(f"{damage.__name__} {seed}")
        data = bytearray(places.good)
        damage(data, chance)
        for command in COMMANDS:
            places.expect_message(bytes(data), chance.random() < 0.7, *command)


@pytest.mark.parametrize("table", ["_sync_state", "_sync_log", "_sync_deleted", "_schema_lock"])
def test_wrong_values_in_own_tables_end_with_message(places: Places, table: str) -> None:
    chance = random.Random(table)
    path = places.world.folder / "changed.db"
    for _ in range(4 * SEEDS):
        path.write_bytes(places.good)
        with closing(sqlite3.connect(path)) as connection, connection:
            names = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            change = f"UPDATE OR IGNORE {table} SET {chance.choice(names)} = ?"
            try:
                connection.execute(change, (chance.choice(VALUES),))
            except sqlite3.IntegrityError:
                continue
        for command in chance.sample(COMMANDS, 4):
            places.expect_message(path.read_bytes(), True, *command)


def test_undecodable_name_is_damage(places: Places) -> None:
    data = places.good.replace(b"vin_name TEXT", b"vin_n\xe7me\xff TE")

    for command in COMMANDS:
        status, printed = places.run(data, True, *command)
        assert status == 2
        assert "malformed" in printed
        assert "restore it from a backup, or move it away" in printed


@pytest.mark.parametrize("kept", [50, PAGE - 1, PAGE + 1000])
def test_truncated_file_is_damage(places: Places, kept: int, tmp_path: Path) -> None:
    for command in COMMANDS:
        status, printed = places.run(places.good[:kept], True, *command)
        assert status == 2
        assert "dataverse.db" in printed
