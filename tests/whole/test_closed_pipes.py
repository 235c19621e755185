"""A reader that closes its end of the pipe changes neither exit status nor result."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import World
from processes import make_environment

from dataverse_sync import streams
from dataverse_sync.emulator import Fault

COMMANDS = [
    ("--help",),
    ("--version",),
    ("sync", "--help"),
    ("status", "--json"),
    ("status", "--max-age", "26h"),
    ("check",),
    ("check", "--json"),
    ("sync", "-v"),
    ("verify",),
    ("report",),
]


def run_unread(folder: Path, *arguments: str, is_stderr_read: bool) -> tuple[int, str]:
    """Run the program with nobody reading its output; return exit status and standard error."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=folder,
            env=make_environment(),
            stdout=writer,
            stderr=subprocess.PIPE if is_stderr_read else writer,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writer)
    return done.returncode, done.stderr or ""


@pytest.fixture
def synced(world: World) -> World:
    world.sync()
    world.write_env_file()
    world.write_entity_list()
    return world


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_closed_pipe_keeps_success(synced: World, command: tuple[str, ...]) -> None:
    module = ("-m", "dataverse_sync")
    status, errors = run_unread(synced.folder, *module, *command, is_stderr_read=True)

    assert (status, [line for line in errors.splitlines() if "INFO" not in line]) == (0, [])
    assert run_unread(synced.folder, *module, *command, is_stderr_read=False) == (0, "")


@pytest.mark.parametrize("command", [("sync",), ("check", "--json"), ("verify",), ("-u", "sync")])
def test_closed_pipe_keeps_failure(synced: World, command: tuple[str, ...]) -> None:
    synced.emulator.control.fault(Fault("status", match="vin_products", status=403, times=99))
    python = command[:-1] if command[0] == "-u" else ()
    arguments = (*python, "-m", "dataverse_sync", *command[len(python) :])

    assert run_unread(synced.folder, *arguments, is_stderr_read=False) == (1, "")


def test_closed_pipe_keeps_usage_error(tmp_path: Path) -> None:
    module = ("-m", "dataverse_sync", "sync")

    assert run_unread(tmp_path, *module, is_stderr_read=False) == (2, "")
    assert run_unread(tmp_path, *module, "--nonsense", is_stderr_read=False) == (2, "")


@pytest.mark.parametrize(
    ("number", "is_ignored"), [(errno.EPIPE, True), (errno.EINVAL, True), (errno.ENOSPC, False)]
)
def test_full_disk_still_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, is_ignored: bool
) -> None:
    class Output(streams.io.FileIO):
        def write(self, _data: object) -> int:
            raise OSError(number, os.strerror(number))

    class Pipe(streams._Pipe, Output):
        pass

    with (tmp_path / "output").open("wb") as file:
        pipe = Pipe(file.fileno(), "wb", closefd=False)
        if is_ignored:
            assert pipe.write(b"12345") == 5
        else:
            with pytest.raises(OSError, match=os.strerror(number)):
                pipe.write(b"12345")
