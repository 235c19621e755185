"""A run while it goes on: as plain lines, or not at all."""

from __future__ import annotations

import pytest

from dataverse_sync.model import (
    Counts,
    EntityFinished,
    EntityReport,
    EntityStarted,
    PageStored,
    PhaseStarted,
    ReadExpected,
    StillWaiting,
)
from dataverse_sync.show.progress import (
    Display,
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
    display.show(EntityStarted("accounts"))
    display.show(stored(5))
    display.show(finished(fetched=5, added=2, updated=1, unchanged=1, deleted=1))
    display.close()

    assert lines == [
        "[2/6] Signing in",
        "  accounts: completed, 2 added, 1 updated, 1 unchanged, 1 deleted",
    ]


def test_a_long_read_is_heard_of_every_ten_seconds_and_after_a_minute_every_minute(clock):
    lines: list[str] = []
    display = PlainDisplay(lines.append, clock)

    display.show(EntityStarted("accounts"))
    display.show(ReadExpected("accounts", 1_200_000))
    spoken: list[float] = []
    for _ in range(400):
        clock.now += 0.5
        display.show(stored(100))
        spoken += [clock.now - 100] * (len(lines) - len(spoken))

    assert spoken == [10, 20, 30, 40, 50, 60, 120, 180]
    assert lines[-1] == (
        "  0 of 1 done, 36,000 rows, 210 rows/s, 4.2 MB/s, 3 in flight, 3:00; "
        "reading accounts 36,000 of about 1,200,000 rows"
    )


def test_many_large_entities_are_one_line_that_names_the_largest(clock):
    lines: list[str] = []
    display = PlainDisplay(lines.append, clock)

    for number in range(40):
        display.show(EntityStarted(f"table_{number}"))
        display.show(stored(number + 1, f"table_{number}"))
    clock.now += 10
    display.show(stored(1, "table_39"))

    assert lines == [
        "  0 of 40 done, 821 rows, 82 rows/s, 8.2 MB/s, 3 in flight, 0:10; "
        "reading table_37 38 rows; table_38 39 rows; table_39 41 rows; 37 more"
    ]


def test_a_wait_for_the_service_is_heard_of_though_no_page_comes(clock):
    lines: list[str] = []
    display = PlainDisplay(lines.append, clock)

    display.show(EntityStarted("accounts"))
    display.show(stored(5000))
    for _ in range(21):
        clock.now += 0.5
        display.show(StillWaiting(1, 300.0))

    assert len(lines) == 1
    assert "waited 300 s for throttling" in lines[0]


def test_where_nothing_is_being_read_nothing_is_said_of_it(clock):
    lines: list[str] = []
    display = PlainDisplay(lines.append, clock)

    display.show(EntityStarted("accounts"))
    display.show(EntityStarted("contacts"))
    display.show(stored(5))
    display.show(finished(added=5))
    clock.now += 30
    display.show(StillWaiting(1, 0.0))

    assert lines == ["  accounts: completed, 5 added"]


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
        (finished(added=1_234_567), "  accounts: completed, 1,234,567 added"),
        (EntityFinished(EntityReport("teams", "failed")), "  teams: failed"),
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
