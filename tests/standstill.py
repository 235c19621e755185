"""Run the program as a process that pauses at the moments a test names.

    python tests/standstill.py PATTERN NUMBER sync --db dataverse.db

Moments are each phase, each statement, each commit with what its transaction holds, and
each file that takes another's place; ``PATTERN`` is looked for in their texts. At every one
that it finds, from the one of this ``NUMBER`` on, a line is written, and the process waits:
to be killed, or for a line that lets it go on.
"""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from processes import make_environment

SIGN = "standing still: "


class Halted:
    """A paused process, as its test controls it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.moment: str | None = None

    def go_on(self) -> str | None:
        """Continue to the next moment and return its text; None if the process has ended."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.wait()

    def wait(self) -> str | None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(SIGN):
                self.moment = line.removeprefix(SIGN).rstrip("\n")
                return self.moment
        self.moment = None
        return None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)


@contextmanager
def halted(
    pattern: str, number: int, *arguments: str, folder: Path, settings: Mapping[str, str]
) -> Iterator[Halted]:
    """Start the program; it is paused at its first moment, or has ended, when the block begins."""
    with subprocess.Popen(
        [sys.executable, __file__, pattern, str(number), *arguments],
        cwd=folder,
        env=make_environment(**settings),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        watch = threading.Timer(60, process.kill)  # a test that waits for it ends too
        watch.start()
        try:
            one = Halted(process)
            one.wait()
            yield one
        finally:
            watch.cancel()
            process.kill()


def use_vfs(name: str) -> None:
    """Open the writer's database through another SQLite VFS; ``unix-none`` does not support WAL."""
    from dataverse_sync.store import sqlite

    create = sqlite.URL.create

    def with_vfs(driver: str, database: str) -> Any:
        return create(driver, database=f"file:{database}", query={"vfs": name, "uri": "true"})

    sqlite.URL = SimpleNamespace(create=with_vfs)  # type: ignore[assignment,misc]


def main(pattern: str, number: str, *arguments: str) -> None:
    """Run the program inside the process, and pause at the moments."""
    left = int(number)

    def moment(text: str) -> None:
        nonlocal left
        text = " ".join(text.split())
        if re.search(pattern, text):
            left -= 1
            if left <= 0:
                print(SIGN + text, flush=True)
                if not sys.stdin.readline():
                    os._exit(9)  # whoever started it is gone

    _watch_statements(moment)
    _watch_phases(moment)
    if vfs := os.environ.get("STANDSTILL_VFS"):
        use_vfs(vfs)
    replace = Path.replace

    def replace_watched(self: Path, target: Any) -> Path:
        moment(f"before REPLACE {Path(target).name}")
        done = replace(self, target)
        moment(f"after REPLACE {Path(target).name}")
        return done

    Path.replace = replace_watched  # type: ignore[method-assign]
    from dataverse_sync import cli
    from dataverse_sync.store import migrate

    migrate.ROWS_AT_ONCE = 20
    sys.exit(cli.main(arguments))


def _watch_statements(moment: Any) -> None:
    from sqlalchemy import Engine, event
    from sqlalchemy.engine.default import DefaultDialect

    held: list[str] = []  # what the transaction has done so far

    @event.listens_for(Engine, "connect")
    def spill(connection: sqlite3.Connection, _: object) -> None:
        # Else nothing of a small transaction is in the file before its commit.
        connection.execute("PRAGMA cache_size = 2")

    @event.listens_for(Engine, "begin")
    def begin(_c: Any) -> None:
        held.clear()

    @event.listens_for(Engine, "before_cursor_execute")
    def before(_c: Any, _cursor: Any, statement: str, *_: object) -> None:
        moment(f"before {statement}")

    @event.listens_for(Engine, "after_cursor_execute")
    def after(_c: Any, _cursor: Any, statement: str, *_: object) -> None:
        held.append(" ".join(statement.split())[:60])
        moment(f"after {statement}")

    commit = DefaultDialect.do_commit

    def commit_watched(self: DefaultDialect, connection: Any) -> None:
        what = "; ".join(held)
        moment(f"before COMMIT of {what}")
        commit(self, connection)
        moment(f"after COMMIT of {what}")

    DefaultDialect.do_commit = commit_watched  # type: ignore[method-assign]


def _watch_phases(moment: Any) -> None:
    from dataverse_sync import model
    from dataverse_sync.sync import run as sync

    def announce(number: int, text: str) -> model.PhaseStarted:
        moment(f"PHASE {number}")
        return model.PhaseStarted(number, text)

    sync.PhaseStarted = announce  # type: ignore[assignment,misc]


if __name__ == "__main__":
    main(*sys.argv[1:])
