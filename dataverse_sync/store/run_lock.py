"""One run at a time on a database: a lock file beside it, held by the operating system.

A lock left by a dead process does not block, since the system lets go of it.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from dataverse_sync.errors import ConfigError, LockedError
from dataverse_sync.files import make_folders, remove_folders

TIMEOUT_S = 0.5  # longer than a look at the lock takes


def lock_path(db_path: Path) -> Path:
    real = db_path.resolve()  # one lock, whatever name the file goes by
    return real.with_name(real.name + ".lock")


def _holder_path(db_path: Path) -> Path:
    # Beside the lock and not in it: Windows does not let a locked file be read.
    return lock_path(db_path).with_suffix(".lock.json")


@contextmanager
def hold(db_path: Path, since: datetime) -> Iterator[None]:
    """Hold the run lock of a database for as long as the block lasts; raises LockedError.

    The folder of the database is made, and goes with the lock if nothing else came into it.
    """
    path = lock_path(db_path)
    try:
        made = make_folders(path.parent)
    except OSError as error:
        raise _explain(path, error) from error
    try:
        with _hold_file(db_path, since):
            yield
    finally:
        remove_folders(made)


@contextmanager
def _hold_file(db_path: Path, since: datetime) -> Iterator[None]:
    path = lock_path(db_path)
    # Not blocking=False: whoever looks whether it is held, holds it for that moment.
    lock = FileLock(path, timeout=TIMEOUT_S)
    try:
        lock.acquire()
    except Timeout:
        _try_to_make(path)
        raise LockedError(
            f"{db_path}: another run holds this database ({describe_holder(db_path)})",
            "Wait for it to end; its lock goes with it.",
        ) from None
    except OSError as error:
        raise _explain(path, error) from error
    holder = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": since.isoformat(timespec="seconds"),
    }
    try:
        with suppress(OSError):
            _holder_path(db_path).write_text(json.dumps(holder), encoding="utf-8")
        yield
    finally:
        # Both go while the lock is still held: filelock looks again whether the file
        # that it has locked is the one with the name. Windows keeps an open file.
        with suppress(OSError):
            _holder_path(db_path).unlink(missing_ok=True)
        with suppress(OSError):
            path.unlink(missing_ok=True)
        lock.release()


def _try_to_make(path: Path) -> None:
    """Raise a ConfigError if the lock file cannot be made: filelock takes that for a held lock."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR))
        path.unlink(missing_ok=True)
    except FileExistsError:  # it is held
        return
    except OSError as error:
        raise _explain(path, error) from error


def _explain(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"{path}: cannot be made ({error.strerror or error})",
        "It is the run lock: see that the database's folder can be written, or name another "
        "database with --db or SQLITE_DB_PATH.",
    )


def is_held(db_path: Path) -> bool:
    """Whether a run holds the database now."""
    if not lock_path(db_path).exists():
        return False
    try:
        with FileLock(lock_path(db_path), blocking=False):
            return False
    except (Timeout, OSError):
        return True


def describe_holder(db_path: Path) -> str:
    """Which process holds the lock, and since when, as it wrote it down."""
    try:
        holder = json.loads(_holder_path(db_path).read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "holder unknown"
