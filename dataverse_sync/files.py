"""Write a file whole or not at all; make the folder that it is to be in."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path


def write_whole(path: Path, text: str, mode: int = 0o666) -> None:
    """Write UTF-8 text as it is, in place of an older file once it is on the disk.

    ``mode`` says who may read and write it, where there are modes, less the umask. If it cannot
    be written, that is an OSError, and an older file is as it was.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        partial.unlink(missing_ok=True)
        number = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
        with os.fdopen(number, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """A place beside ``path`` to write a file in, which is moved there if the block ends well.

    If it does not, or the file cannot be moved (OSError), an older one is as it was.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        with partial.open("r+b") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def make_folders(folder: Path) -> Sequence[Path]:
    """Make a folder and its parents; returns those that were missing, the innermost first.

    If it cannot be made, that is an OSError, and none is left.
    """
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    made: list[Path] = []
    try:
        for each in reversed(missing):
            each.mkdir(exist_ok=True)
            made.insert(0, each)
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    except OSError:
        remove_folders(made)
        raise
    return made


def remove_folders(folders: Sequence[Path]) -> None:
    """Remove those of these folders that are empty."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def try_folder(folder: Path) -> None:
    """See that a file can be made in this folder, which may be missing, and leave nothing.

    If it cannot, that is an OSError.
    """
    made = make_folders(folder)
    remove_folders(made)
    if not made and not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def find_existing_folder(folder: Path) -> Path:
    """Find the folder, or the innermost of its parents, that exists."""
    absolute = folder.absolute()
    return next((each for each in (absolute, *absolute.parents) if each.exists()), absolute)
