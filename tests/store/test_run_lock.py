"""One run at a time on a database: tried with real processes."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from filelock import FileLock

from dataverse_sync.errors import ConfigError, LockedError
from dataverse_sync.store import run_lock

ROOT = Path(__file__).parents[2]
SINCE = datetime(2024, 5, 1, 10, 0, 0, 250_000, tzinfo=UTC)
HOLD = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from dataverse_sync.store import run_lock
with run_lock.hold(Path(sys.argv[1]), datetime(2024, 5, 1, 10, tzinfo=UTC)):
    print("held", flush=True)
    sys.stdin.readline()
"""
COUNT = """
import os, sys, time
from datetime import UTC, datetime
from pathlib import Path
from dataverse_sync.store import run_lock
from dataverse_sync.errors import LockedError
path = Path(sys.argv[1])
held = 0
while held < 6:
    try:
        with run_lock.hold(path, datetime.now(UTC)):
            inside = os.open(path.with_name("inside"), os.O_CREAT | os.O_EXCL)
            os.close(inside)
            path.with_name("inside").unlink()
            held += 1
    except LockedError:
        pass
"""


def start(script: str, db_path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, str(db_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def another_run(db_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock until the block ends."""
    with start(HOLD, db_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        if process.poll() is None:
            process.communicate("\n", timeout=10)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_second_process_is_refused_with_holder(tmp_path: Path) -> None:
    db_path = tmp_path / "dataverse.db"

    with another_run(db_path) as process:
        with pytest.raises(LockedError) as caught, run_lock.hold(db_path, SINCE):
            pytest.fail("held twice")
        held = run_lock.is_held(db_path)

    assert re.fullmatch(
        rf"{re.escape(str(db_path))}: another run holds this database "
        rf"\(process {process.pid} on \S+, since 2024-05-01T10:00:00\+00:00\)",
        caught.value.message,
    )
    assert held
    assert not run_lock.is_held(db_path)


def test_killed_process_does_not_block(tmp_path: Path) -> None:
    db_path = tmp_path / "dataverse.db"

    with another_run(db_path) as process:
        process.send_signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
        process.wait(10)
        left = names(tmp_path)
        held = run_lock.is_held(db_path)
        with run_lock.hold(db_path, SINCE):
            holder = run_lock.describe_holder(db_path)

    assert left == ["dataverse.db.lock", "dataverse.db.lock.json"]
    assert not held
    assert holder.startswith(f"process {os.getpid()} on ")
    assert names(tmp_path) == []


def test_lock_and_holder_files_go(tmp_path: Path) -> None:
    db_path = tmp_path / "dataverse.db"

    with run_lock.hold(db_path, SINCE):
        during = names(tmp_path)
        holder = json.loads((tmp_path / "dataverse.db.lock.json").read_text(encoding="utf-8"))

    assert during == ["dataverse.db.lock", "dataverse.db.lock.json"]
    assert holder["pid"] == os.getpid()
    assert holder["since"] == "2024-05-01T10:00:00+00:00"
    assert names(tmp_path) == []


def test_failing_run_releases_lock(tmp_path: Path) -> None:
    db_path = tmp_path / "dataverse.db"

    with pytest.raises(KeyboardInterrupt), run_lock.hold(db_path, SINCE):
        raise KeyboardInterrupt

    assert names(tmp_path) == []
    with run_lock.hold(db_path, SINCE):
        assert run_lock.is_held(db_path)


def test_each_database_has_its_lock(tmp_path: Path) -> None:
    with (
        run_lock.hold(tmp_path / "a.db", SINCE),
        run_lock.hold(tmp_path / "b.db", SINCE),
    ):
        assert len(names(tmp_path)) == 4


def test_competing_processes_exclude_each_other(tmp_path: Path) -> None:
    processes = [start(COUNT, tmp_path / "dataverse.db") for _ in range(3)]

    outcomes = [process.communicate(timeout=60) for process in processes]

    assert outcomes == [("", "")] * 3
    assert [process.returncode for process in processes] == [0] * 3


def test_brief_look_refuses_no_run(tmp_path: Path) -> None:
    db_path = tmp_path / "dataverse.db"
    looking = threading.Event()

    def look() -> None:
        with FileLock(run_lock.lock_path(db_path)):
            looking.set()
            time.sleep(0.1)

    looker = threading.Thread(target=look)
    looker.start()
    looking.wait(5)
    with run_lock.hold(db_path, SINCE):
        holder = run_lock.describe_holder(db_path)
    looker.join(10)

    assert holder.startswith(f"process {os.getpid()} on ")


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"pid": 1}', '"text"'])
def test_unreadable_holder_is_unknown(tmp_path: Path, text: str | None) -> None:
    db_path = tmp_path / "dataverse.db"
    if text is not None:
        (tmp_path / "dataverse.db.lock.json").write_text(text)

    assert run_lock.describe_holder(db_path) == "holder unknown"


def test_missing_lock_file_is_not_held(tmp_path: Path) -> None:
    assert not run_lock.is_held(tmp_path / "dataverse.db")
    assert names(tmp_path) == []


def test_unmakeable_lock_file_is_config_error(tmp_path: Path) -> None:
    (tmp_path / "dataverse.db.lock").mkdir()

    with (
        pytest.raises(ConfigError, match=r"dataverse\.db\.lock: cannot be made"),
        run_lock.hold(tmp_path / "dataverse.db", SINCE),
    ):
        pytest.fail("held a folder")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT])
def test_unwritable_folder_is_not_a_held_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(path: object, *_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(FileLock, "_acquire", lambda _: None)  # as it does where it may not write
    monkeypatch.setattr(run_lock, "TIMEOUT_S", 0.01)
    monkeypatch.setattr(run_lock.os, "open", refuse)

    with (
        pytest.raises(ConfigError, match=r"dataverse\.db\.lock: cannot be made") as caught,
        run_lock.hold(tmp_path / "dataverse.db", SINCE),
    ):
        pytest.fail("held without a file")
    assert "--db" in caught.value.hint


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc here")
@pytest.mark.parametrize("name", ["/proc/x.db", "/proc/missing/x.db", "/dev/null/x.db"])
def test_lock_in_system_folder_is_config_error(name: str) -> None:
    with (
        pytest.raises(ConfigError, match="cannot be made"),
        run_lock.hold(Path(name), SINCE),
    ):
        pytest.fail("held without a file")


def test_missing_folder_goes_with_lock_if_empty(tmp_path: Path) -> None:
    for is_used in (False, True):
        db_path = tmp_path / "a" / "b" / "dataverse.db"
        with run_lock.hold(db_path, SINCE):
            assert names(db_path.parent) == ["dataverse.db.lock", "dataverse.db.lock.json"]
            if is_used:
                db_path.touch()
        assert names(tmp_path) == (["a"] if is_used else [])
    assert names(db_path.parent) == ["dataverse.db"]


def test_existing_folder_stays(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with run_lock.hold(tmp_path / "a" / "b" / "dataverse.db", SINCE):
        pass

    assert names(tmp_path) == ["a"]
    assert names(tmp_path / "a") == []


def test_unwritable_holder_still_holds(tmp_path: Path) -> None:
    db_path = tmp_path / "dataverse.db"
    (tmp_path / "dataverse.db.lock.json").mkdir()

    with run_lock.hold(db_path, SINCE):
        held = run_lock.is_held(db_path)
        holder = run_lock.describe_holder(db_path)

    assert held
    assert holder == "holder unknown"
