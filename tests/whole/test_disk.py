"""Unwritable places and a full disk, tested with real processes.

To the superuser every file is open. The process gives that privilege up first, so that
permissions hold for it too.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import World, insert
from processes import run_python

from dataverse_sync import EntityConfig

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="permission bits and limits of Unix"),
]

# 24: PR_CAPBSET_DROP; 1 and 2: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH; for what is run next.
PLAIN_USER = """
import ctypes, os, sys
if hasattr(os, "geteuid") and os.geteuid() == 0 and sys.platform == "linux":
    for capability in (1, 2):
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)
if int(sys.argv[1]):
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


def run_plain(
    folder: Path, *arguments: str, largest: int = 0, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run Python without superuser privileges, with files of this size at most."""
    limited = ("-B", "-c", PLAIN_USER, str(largest), "-B")
    return run_python(folder, *limited, *arguments, **variables)


def sync_plain(world: World, *options: str, largest: int = 0) -> subprocess.CompletedProcess[str]:
    command = ("-m", "dataverse_sync", "sync", *options)
    return run_plain(world.folder, *command, largest=largest, **world.settings())


@pytest.fixture
def closed() -> Iterator[Any]:
    """Return a function that makes a file or folder read-only until the test ends."""
    modes: dict[Path, int] = {}

    def close(path: Path) -> None:
        modes[path] = stat.S_IMODE(path.stat().st_mode)
        path.chmod(modes[path] & ~0o222)
        probe = f"import os; print(os.access({str(path)!r}, os.W_OK))"
        if run_plain(path.parent, "-c", probe).stdout != "False\n":
            pytest.skip("permissions do not hold for this user")

    yield close
    for path, mode in modes.items():
        path.chmod(mode)


@pytest.fixture
def ready(world: World) -> World:
    world.write_entity_list()
    return world


def test_unwritable_folder_exits_2(ready: World, closed: Any) -> None:
    folder = ready.folder / "closed"
    folder.mkdir()
    closed(folder)

    done = sync_plain(ready, "--db", "closed/dataverse.db")

    assert done.returncode == 2
    assert "the folder cannot be written" in done.stderr
    assert ready.emulator.log == []


@pytest.mark.parametrize("name", ["dataverse.db", "."])
def test_unwritable_database_exits_2(ready: World, closed: Any, name: str) -> None:
    folder = ready.folder / "closed"
    folder.mkdir()
    ready.db_path = folder / "dataverse.db"
    assert ready.sync().ok
    before = ready.db_path.read_bytes()
    ready.emulator.log.clear()
    closed(folder / name)  # the file; or the folder, where no log can be written beside it

    done = sync_plain(ready, "--db", "closed/dataverse.db")

    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "closed/dataverse.db" in done.stderr
    assert ready.emulator.log == []
    assert ready.db_path.read_bytes() == before


def test_unwritable_lock_exits_1_then_written(ready: World, closed: Any) -> None:
    folder = ready.folder / "schema"
    folder.mkdir()
    closed(folder)

    done = sync_plain(ready)
    folder.chmod(0o755)
    report = ready.sync()

    assert done.returncode == 1
    assert "schema.json: cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert report.ok
    assert ready.schema_path.exists()
    assert ready.is_mirror("vin_candidates", "vin_products")


@pytest.mark.parametrize("option", ["--log-file", "--report"])
def test_unwritable_log_or_report_without_traceback(ready: World, closed: Any, option: str) -> None:
    folder = ready.folder / "closed"
    folder.mkdir()
    closed(folder)

    done = sync_plain(ready, option, "closed/out")

    assert done.returncode in (1, 2)
    assert "closed/out" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [("status",), ("report", "report.html")])
def test_read_only_database_can_be_read(
    ready: World, closed: Any, command: tuple[str, ...]
) -> None:
    assert ready.sync().ok
    closed(ready.db_path)

    done = run_plain(ready.folder, "-m", "dataverse_sync", *command)

    assert done.returncode == 0, done.stderr


# A disk that fills: no file may grow beyond a limit, so that SQLite's own writes fail

LARGE = [EntityConfig("vin_candidates"), EntityConfig("vin_products")]


@pytest.fixture
def large(make_world: Any) -> World:
    world: World = make_world(max_page_size=50)
    (world.folder / "entities_config.json").write_text(
        '{"entities": [{"name": "vin_candidates"}, {"name": "vin_products"}]}'
    )
    for name in ("vin_candidates", "vin_products"):
        insert(world.emulator, name, [{"vin_name": "x" * 3000} for _ in range(500)])
    return world


@pytest.mark.parametrize("largest", [5_000, 20_000, 250_000, 2_000_000, 4_000_000])
def test_full_disk_keeps_committed_pages(large: World, largest: int) -> None:
    done = sync_plain(large, largest=largest)
    stored = 0
    if large.db_path.stat().st_size > 8192:
        assert large.query("PRAGMA integrity_check") == [("ok",)]
    if large.query("SELECT count(*) FROM sqlite_master WHERE name = 'vin_products'") == [(1,)]:
        for name in ("vin_candidates", "vin_products"):
            rows = large.query(f"SELECT count(*) FROM {name}")[0][0]
            assert rows % 50 == 0
            stored += rows
    report = large.sync(LARGE)

    assert done.returncode == 1, done.stderr
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert (stored > 0) == (largest > 1_000_000)
    assert report.ok
    assert report.totals.fetched == 1000 - stored  # what was committed is not read again
    assert large.is_mirror("vin_candidates", "vin_products")
    assert large.query("PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize("largest", [20_000, 500_000])
def test_full_disk_during_accept_changes_nothing(large: World, largest: int) -> None:
    assert large.sync(LARGE).ok
    before = large.query("SELECT * FROM vin_candidates ORDER BY 1")
    large.emulator.retype_column("vin_candidates", "vin_number", "String")
    shutil.copy(large.schema_path, large.folder / "before.json")
    command = ("-m", "dataverse_sync", "schema", "accept")

    done = run_plain(large.folder, *command, largest=largest, **large.settings())

    assert done.returncode == 1, done.stderr
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert large.query("PRAGMA integrity_check") == [("ok",)]
    assert large.query("SELECT * FROM vin_candidates ORDER BY 1") == before
    assert large.schema_path.read_bytes() == (large.folder / "before.json").read_bytes()
    assert run_plain(large.folder, *command, **large.settings()).returncode == 0
    assert large.sync(LARGE).ok
