"""The live display, on a terminal of its own: what a person sees there, and how it is left."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ENTITIES, World
from loopback import SlowTime

from dataverse_sync import cli
from dataverse_sync import logs as console
from dataverse_sync.commands.display import choose_display
from dataverse_sync.commands.options import Options
from dataverse_sync.emulator import Fault
from dataverse_sync.model import (
    EntityFinished,
    EntityReport,
    EntityStarted,
    Event,
    PageStored,
    PhaseStarted,
    ReadExpected,
)
from dataverse_sync.redaction import Redactor

if sys.platform == "win32":
    pytest.skip("pseudo-terminals are POSIX's", allow_module_level=True)

import fcntl
import pty
import struct
import termios

from dataverse_sync.show.live_display import LiveDisplay

ROOT = Path(__file__).parents[2]
_CONTROL = re.compile(r"\x1b\[(\??)([0-9;]*)([A-Za-z])|[\r\n]|[^\x1b\r\n]+")


class Screen:
    """What a terminal shows of what was written to it."""

    def __init__(self, text: str) -> None:
        self.lines: list[str] = [""]
        self.cursor_shown = True
        self._at = 0
        for found in _CONTROL.finditer(text):
            self._take(found)

    def _take(self, found: re.Match[str]) -> None:
        part = found[0]
        if part == "\n":
            self._at += 1
            self.lines += [""] * (self._at + 1 - len(self.lines))
        elif part == "\r":
            pass  # nothing is ever written over but what was erased before
        elif not part.startswith("\x1b"):
            self.lines[self._at] += part
        elif found[3] == "A":
            self._at -= int(found[2] or 1)
            assert self._at >= 0
        elif part == "\x1b[2K":
            self.lines[self._at] = ""
        elif found[1]:
            assert found[2] == "25"
            self.cursor_shown = found[3] == "h"
        else:
            assert found[3] == "m", f"what does {part!r} do?"

    @property
    def shown(self) -> list[str]:
        return [line.rstrip() for line in self.lines if line.strip()]


class Terminal:
    """A pseudo-terminal, and all that was written to it so far."""

    def __init__(self, height: int, width: int, encoding: str) -> None:
        self.encoding = encoding
        self._looks = 0
        self._master, self.slave = pty.openpty()
        size = struct.pack("HHHH", height, width, 0, 0)
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, size)
        self._bytes = b""
        self._came = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                more = os.read(self._master, 65536)
            except OSError:  # the other end is closed
                return
            with self._came:
                self._bytes += more
                self._came.notify_all()

    def wait_for(self, part: str) -> str:
        """What was written before this was."""
        with self._came:
            assert self._came.wait_for(lambda: part.encode() in self._bytes, 30), self._bytes
            return self._bytes.decode(self.encoding).partition(part)[0]

    def text(self) -> str:
        """All that was written so far."""
        self._looks += 1
        mark = f"\x1b[9{self._looks:04}m"  # a colour that there is not
        os.write(self.slave, mark.encode())
        return self.wait_for(mark)

    def screen(self) -> Screen:
        return Screen(self.text())

    def close(self) -> None:
        os.close(self.slave)
        self._reader.join(30)
        os.close(self._master)


class RedrawnDisplay(LiveDisplay):
    """A display that is drawn when the test says so."""

    def redraw(self) -> None:
        self._live.refresh()


@pytest.fixture
def open_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Terminal]]:
    """Make standard output and error a terminal of this size."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(
        "dataverse_sync.show.live_display._REDRAWS_A_SECOND", 0.001
    )  # but when told to
    terminals: list[Terminal] = []
    streams: list[Any] = []

    def make(height: int = 24, width: int = 100, encoding: str = "utf-8") -> Terminal:
        terminal = Terminal(height, width, encoding)
        # rich asks the process's own descriptors for the size, which are pytest's.
        monkeypatch.setenv("LINES", str(height))
        monkeypatch.setenv("COLUMNS", str(width))
        terminals.append(terminal)
        for name in ("stdout", "stderr"):
            stream = os.fdopen(os.dup(terminal.slave), "w", 1, encoding=encoding)
            streams.append(stream)
            monkeypatch.setattr(sys, name, stream)
        return terminal

    yield make
    for stream in streams:
        stream.close()
    for terminal in terminals:
        terminal.close()


@pytest.fixture
def start(clock: SlowTime) -> Iterator[Callable[..., RedrawnDisplay]]:
    """Begin the fifth phase on a display that is closed when the test ends."""
    displays = []

    def begin(*events: Event) -> RedrawnDisplay:
        display = RedrawnDisplay(clock.clock)
        displays.append(display)
        for event in (PhaseStarted(5, "Syncing"), *events):
            display.show(event)
        return display

    yield begin
    for display in displays:
        display.close()


@pytest.fixture
def clock() -> SlowTime:
    return SlowTime()


def stored(entity: str, records: int = 5000, *, keys_only: bool = False) -> PageStored:
    return PageStored(entity, records, 2_000_000, 3, 30.0, keys_only)


def test_bars_and_a_line_about_all(open_terminal, start, clock):
    terminal = open_terminal()

    display = start(EntityStarted("accounts"), EntityStarted("contacts"))
    display.show(ReadExpected("accounts", 20_000))
    display.show(stored("accounts"))
    display.show(stored("contacts"))
    clock.now += 2
    display.redraw()

    shown = terminal.screen().shown
    assert shown[0] == "[5/6] Syncing"
    assert re.fullmatch(r"  accounts  \u2501+\S*\s+5,000 of about 20,000 rows", shown[1])
    assert re.fullmatch(r"  contacts  \u2501+\s+5,000 rows", shown[2])
    assert shown[3] == (
        "0 of 2 done, 10,000 rows, 5,000 rows/s, 2.0 MB/s, 3 in flight, "
        "waited 30 s for throttling, 0:02"
    )


def test_bar_grows_with_reads(open_terminal, start, clock):
    terminal = open_terminal()
    filled = []

    display = start(EntityStarted("accounts"), ReadExpected("accounts", 12_000))
    for _ in range(3):
        display.show(stored("accounts", 3000))
        clock.now += 2
        display.redraw()
        coloured = terminal.text().rpartition("accounts")[2]
        bar = re.search(r"\x1b\[[0-9;]*m(\u2501+)", coloured)
        filled.append(len(bar[1]) if bar else 0)

    assert filled == [6, 12, 18]  # of 24


def test_exceeded_bar_without_total(open_terminal, start, clock):
    terminal = open_terminal()

    display = start(EntityStarted("accounts"), ReadExpected("accounts", 6000))
    display.show(stored("accounts"))
    display.show(stored("accounts"))
    clock.now += 2
    display.redraw()

    assert terminal.screen().shown[1].endswith("  10,000 rows")


def test_quick_read_without_bar(open_terminal, start, clock):
    terminal = open_terminal()

    display = start(EntityStarted("accounts"))
    display.show(stored("accounts"))
    clock.now += 0.9
    display.redraw()
    display.show(EntityFinished(EntityReport("accounts", "completed")))
    display.close()

    assert terminal.screen().shown == [
        "[5/6] Syncing",
        "  accounts: completed, nothing changed",
    ]
    assert "done" not in terminal.text()


def test_small_terminal_not_filled(open_terminal, start, clock):
    terminal = open_terminal(height=9)

    display = start(*(EntityStarted(f"table_{number}") for number in range(40)))
    for number in range(40):
        display.show(stored(f"table_{number}", number + 1))
    clock.now += 2
    display.redraw()

    shown = terminal.screen().shown
    assert [line.split()[0] for line in shown[1:6]] == [f"table_{n}" for n in range(35, 40)]
    assert shown[6] == "  and 35 more"
    assert shown[7].startswith("0 of 40 done, 820 rows")
    assert len(shown) == 8


def test_narrow_terminal_wraps_nothing(open_terminal, start, clock):
    terminal = open_terminal(width=50)

    display = start(EntityStarted("vin_vin_clinicaltrial_vin_countryset"))
    display.show(stored("vin_vin_clinicaltrial_vin_countryset"))
    clock.now += 2
    display.redraw()

    shown = terminal.screen().shown
    assert len(shown) == 3
    assert max(map(len, shown)) <= 50
    assert shown[1].startswith("  vin_vin")


def test_finished_entity_above_bars(open_terminal, start, clock):
    terminal = open_terminal()

    display = start(EntityStarted("accounts"), EntityStarted("contacts"))
    display.show(stored("accounts"))
    display.show(stored("contacts"))
    clock.now += 2
    display.redraw()
    display.show(EntityFinished(EntityReport("[accounts]:smile:", "completed")))
    display.show(EntityFinished(EntityReport("contacts", "completed")))
    display.redraw()

    shown = terminal.screen().shown
    assert shown[1:3] == [
        "  [accounts]:smile:: completed, nothing changed",
        "  contacts: completed, nothing changed",
    ]
    assert shown[-1].startswith("2 of 2 done")


def test_warning_above_bars(open_terminal, start, clock):
    terminal = open_terminal()
    console.configure_logging(0, None, Redactor())
    long = "a service that is busy, " * 8

    display = start(EntityStarted("accounts"))
    display.show(stored("accounts"))
    clock.now += 2
    display.redraw()
    with console.diverted(display.log_line):
        logging.getLogger("dataverse_sync").warning("[accounts] %s", long)
    display.redraw()

    shown = terminal.screen().shown
    assert shown[:2] == ["[5/6] Syncing", f"WARNING: [accounts] {long}".rstrip()]
    assert [line.split()[0] for line in shown[2:]] == ["accounts", "0"]


def test_closed_display_leaves_only_lines(open_terminal, start, clock):
    terminal = open_terminal()

    display = start(EntityStarted("accounts"))
    display.show(stored("accounts"))
    clock.now += 2
    display.redraw()
    during = terminal.screen()
    display.close()

    assert not during.cursor_shown
    assert terminal.screen().cursor_shown
    assert terminal.screen().shown == ["[5/6] Syncing"]


def test_last_phase_removes_bars(open_terminal, start, clock):
    terminal = open_terminal()

    display = start(EntityStarted("accounts"))
    display.show(stored("accounts"))
    clock.now += 2
    display.redraw()
    display.show(PhaseStarted(6, "Summing up"))

    assert terminal.screen().shown == ["[5/6] Syncing", "[6/6] Summing up"]
    assert terminal.screen().cursor_shown


def test_no_color_means_no_colour(open_terminal, start, clock, monkeypatch):
    terminal = open_terminal()
    monkeypatch.setenv("NO_COLOR", "1")

    display = start(EntityStarted("accounts"), ReadExpected("accounts", 20_000))
    display.show(stored("accounts"))
    clock.now += 2
    display.redraw()

    assert "accounts  \u2501\u2501\u2501" in terminal.screen().shown[1]
    assert not re.search(r"\x1b\[[0-9;]*(3|4|9|10)[0-9][;m]", terminal.text().partition("99")[0])


def test_bars_in_cp1252(open_terminal, start, clock):
    terminal = open_terminal(encoding="cp1252")

    display = start(EntityStarted("accounts"), ReadExpected("accounts", 10_000))
    display.show(stored("accounts"))
    clock.now += 2
    display.redraw()

    assert re.search(r"accounts  -{12}", terminal.screen().shown[1])


# Which display


def options(*arguments: str) -> Any:
    return cli.build_parser().parse_args(["sync", *arguments], Options())


@pytest.mark.parametrize(
    ("arguments", "term", "expected"),
    [
        ((), "xterm", "LiveDisplay"),
        ((), "dumb", "PlainDisplay"),
        (("--no-progress",), "xterm", "PlainDisplay"),
        (("-q",), "xterm", "QuietDisplay"),
    ],
)
def test_display_chosen_for_terminal(open_terminal, monkeypatch, arguments, term, expected):
    open_terminal()
    monkeypatch.setenv("TERM", term)

    display = choose_display(options(*arguments))

    assert type(display).__name__ == expected


def test_rich_imported_only_for_bars():
    command = (
        "import sys; from dataverse_sync.cli import build_parser; build_parser(); "
        "sys.exit('rich' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, check=False)

    assert done.returncode == 0


# The program as a process of its own, on a terminal


@pytest.fixture
def run(world: World, open_terminal: Any) -> Iterator[Callable[..., Any]]:
    """Start a sync of the world on a terminal; returns both."""
    lines = "\n".join(world.emulator.env_lines())
    (world.folder / ".env").write_text(lines, encoding="utf-8")
    entries = [{"name": e.name, "filtered": e.filtered} for e in ENTITIES]
    config = world.folder / "entities_config.json"
    config.write_text(json.dumps({"entities": entries}), encoding="utf-8")

    processes: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str, **streams: Any) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "dataverse_sync", *arguments],
            cwd=world.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            start_new_session=True,
            **streams,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


def test_same_lines_on_terminal_and_pipe(run, open_terminal, world):
    terminal = open_terminal()

    on_terminal = run(stdout=terminal.slave, stderr=terminal.slave)
    assert on_terminal.wait(60) == 0
    screen = terminal.screen()
    in_pipe = run("--full", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    piped = in_pipe.communicate(timeout=60)[0]

    assert screen.cursor_shown
    assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f]", piped.replace(b"\r\n", b"\n"))
    lines = [line for line in piped.decode("cp1252").splitlines() if line]
    assert sorted(map(shape, lines)) == sorted(map(shape, screen.shown))


def shape(line: str) -> str:
    """A line without what differs between two runs."""
    line = re.sub(r"\d+ (added|unchanged)(, \d+ unchanged)?", "N changed", line)
    return re.sub(r"[0-9.]+", "N", re.sub(r" {2,}", "  ", line))


def test_ctrl_c_restores_the_terminal(run, open_terminal, world):
    terminal = open_terminal()
    world.emulator.control.fault(Fault("stall", match=r"/vin_candidates\?", seconds=60, times=9))

    process = run(stdout=terminal.slave, stderr=terminal.slave)
    terminal.wait_for("\x1b[?25l")
    process.send_signal(signal.SIGINT)

    assert process.wait(60) == 1
    assert terminal.screen().cursor_shown
    assert terminal.screen().shown[-1].startswith("interrupted; what was committed is kept")
