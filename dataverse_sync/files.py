"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def write_whole(path: Path, text: str, mode: int = 0o666) -> None:
    """Write a file beside its place, then move it there: a reader sees the old or the new text.

    Args:
        path: The file to make or replace; its folder is there.
        text: Written as UTF-8, its line ends as they are.
        mode: The permissions of the new file, less the umask, on systems that have them.

    Raises:
        OSError: The file cannot be written; what was there before is still there.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with suppress(FileNotFoundError):
            partial.unlink()  # of a process that was killed
        number = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
        with os.fdopen(number, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
