"""A run while it goes on: as plain lines, live, or not at all."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dataverse_sync.model import (
    Counts,
    EntityFinished,
    EntityReport,
    EntityStarted,
    PageStored,
    PhaseStarted,
)
from dataverse_sync.progress import (
    Display,
    LiveDisplay,
    PlainDisplay,
    QuietDisplay,
    format_finished,
)


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def finished(name: str = "accounts", **counts: int) -> EntityFinished:
    return EntityFinished(EntityReport(name, "completed", Counts(**counts)))


def stored(records: int, entity: str = "accounts") -> PageStored:
    return PageStored(entity, records, 2_000_000, 3)


@pytest.fixture
def clock() -> Clock:
    return Clock()


# Plain lines


def test_phases_and_finished_entities_are_a_line_each(clock):
    lines: list[str] = []
    display = PlainDisplay(lines.append, clock)

    display.show(PhaseStarted(2, "Signing in"))
    display.show(EntityStarted("accounts", 5))
    display.show(stored(5))
    display.show(finished(fetched=5, added=2, updated=1, unchanged=1, deleted=1))
    display.close()

    assert lines == [
        "[2/6] Signing in",
        "  accounts: completed, 2 added, 1 updated, 1 unchanged, 1 deleted",
    ]


def test_a_large_entity_is_heard_of_every_ten_seconds(clock):
    lines: list[str] = []
    display = PlainDisplay(lines.append, clock)

    display.show(EntityStarted("accounts"))
    for now in (109.9, 110.0, 115.0, 119.9, 120.1):
        clock.now = now
        display.show(stored(5000))

    assert lines == ["  accounts: 10000 read so far", "  accounts: 25000 read so far"]


def test_each_entity_has_its_own_count_and_its_own_ten_seconds(clock):
    lines: list[str] = []
    display = PlainDisplay(lines.append, clock)

    display.show(EntityStarted("accounts"))
    clock.now = 105.0
    display.show(EntityStarted("contacts"))
    display.show(stored(7, "contacts"))
    clock.now = 110.0
    display.show(stored(5, "accounts"))
    display.show(stored(7, "contacts"))

    assert lines == ["  accounts: 5 read so far"]


def test_a_page_of_an_entity_that_was_not_announced_is_no_harm(clock):
    lines: list[str] = []
    display = PlainDisplay(lines.append, clock)

    display.show(stored(5))

    assert lines == []


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (finished(), "  accounts: completed, nothing changed"),
        (finished(fetched=9, unchanged=9), "  accounts: completed, 9 unchanged"),
        (EntityFinished(EntityReport("teams", "failed")), "  teams: failed, nothing changed"),
    ],
)
def test_a_finished_entity_is_told_with_what_changed(event, expected):
    assert format_finished(event) == expected


# Quiet


def test_a_quiet_display_says_nothing(capsys):
    display: Display = QuietDisplay()

    display.show(PhaseStarted(1, "Configuring"))
    display.show(finished(added=1))
    display.close()

    assert capsys.readouterr() == ("", "")


# Live


@pytest.fixture
def run_live(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], clock: Clock
) -> Callable[..., str]:
    """Show events on a terminal of 100 columns; returns what was written to it."""

    def run(*events: object, terminal: bool = True) -> str:
        monkeypatch.setenv("COLUMNS", "100")
        monkeypatch.setenv("TTY_COMPATIBLE", "1" if terminal else "0")
        monkeypatch.setenv("TTY_INTERACTIVE", "1" if terminal else "0")
        monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm")
        display = LiveDisplay(clock)
        clock.now += 2.0
        try:
            for event in events:
                display.show(event)  # type: ignore[arg-type]
        finally:
            display.close()
        return capsys.readouterr().out

    return run


def test_a_live_display_shows_rows_and_speed_of_what_is_being_read(run_live):
    shown = run_live(EntityStarted("accounts"), stored(5000), stored(2500))

    last = shown.replace("\r", "\n").splitlines()
    assert any("accounts" in line and "7500 rows" in line for line in last)
    assert any("all" in line and "2.0 MB/s, 3 in flight" in line for line in last)


def test_a_live_display_keeps_phases_and_finished_entities(run_live):
    shown = run_live(
        PhaseStarted(5, "Reading [all] of it"),
        stored(5000),
        finished("accounts", added=5000),
        finished("contacts"),
        terminal=False,
    )

    lines = [line.rstrip() for line in shown.splitlines() if line.strip()]
    assert lines[:3] == [
        "[5/6] Reading [all] of it",
        "  accounts: completed, 5000 added",
        "  contacts: completed, nothing changed",
    ]


def test_a_finished_entity_leaves_the_live_display(run_live):
    shown = run_live(
        stored(5000),
        stored(10, "contacts"),
        finished("accounts", added=5000),
        stored(1, "contacts"),
    )

    last = shown[shown.rindex("all ") :]  # the last frame, from its first line on
    assert "accounts" not in last
    assert "11 rows" in last
    assert "5011 rows" in last
