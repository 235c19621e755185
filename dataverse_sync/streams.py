"""Standard output and standard error: there without a console, and calm when a reader goes away."""

from __future__ import annotations

import errno
import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_OUTPUTS = ("stdout", "stderr")
# Windows says EINVAL where other systems say EPIPE.
_CLOSED = (errno.EPIPE, errno.EINVAL)


def open_missing() -> None:
    """Discard the output of a job that was started without a console (``pythonw``)."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115


def ignore_closed_pipes() -> None:
    """Discard what is written to a pipe that its reader has closed (``| head``).

    A command then goes on to its end, and its exit status says how it went.
    """
    for name in _OUTPUTS:
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) and not stream.isatty():
            setattr(sys, name, _reopen(stream))


def _reopen(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    stream.flush()
    pipe = _Pipe(stream.fileno(), "wb", closefd=False)
    # Unbuffered output (python -u) has no buffer to pass.
    buffer = pipe if stream.write_through else io.BufferedWriter(pipe)
    return io.TextIOWrapper(
        buffer,
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _Pipe(io.FileIO):
    """A file that takes everything once its reader is gone."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in _CLOSED:  # a full disk stays an error
                raise
            return memoryview(data).nbytes
