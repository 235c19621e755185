"""A run while it goes on: counts and speeds, and plain lines about them, or none."""

from __future__ import annotations

import pytest
from loopback import SlowTime

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
    Tally,
    format_event,
)


def finished(name: str = "accounts", **counts: int) -> EntityFinished:
    return EntityFinished(EntityReport(name, "completed", Counts(**counts)))


def stored(entity: str = "accounts", records: int = 5000, *, keys_only: bool = False) -> PageStored:
    return PageStored(entity, records, 2_000_000, 3, keys_only=keys_only)


@pytest.fixture
def clock() -> SlowTime:
    return SlowTime()


@pytest.fixture
def tally(clock: SlowTime) -> Tally:
    return Tally(clock.clock)


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def display(lines: list[str], clock: SlowTime) -> PlainDisplay:
    return PlainDisplay(lines.append, clock.clock)


# Counts


def shown(tally: Tally) -> list[str]:
    return [f"{reading.entity} {reading}" for reading in tally.find_largest(9)[0]]


def test_run_counted_in_one_line(tally, clock):
    for name in ("accounts", "contacts", "teams"):
        tally.add(EntityStarted(name))
    clock.now += 4
    tally.add(stored("accounts", 6000))
    tally.add(EntityFinished(EntityReport("accounts", "completed")))
    tally.add(PageStored("contacts", 2000, 2_000_000, 7, waited_s=30.0))

    assert str(tally) == (
        "1 of 3 done, 8,000 rows, 2,000 rows/s, 1.0 MB/s, 7 in flight, "
        "waited 30 s for throttling, 0:04"
    )


def test_speeds_of_last_ten_seconds(tally, clock):
    tally.add(EntityStarted("accounts"))
    tally.add(stored("accounts", 90_000))
    clock.now += 60
    tally.add(stored("accounts", 5000))

    assert "95,000 rows, 500 rows/s, 0.2 MB/s" in str(tally)


def test_speed_falls_without_pages(tally, clock):
    tally.add(EntityStarted("accounts"))
    tally.add(stored("accounts"))
    clock.now += 11
    tally.add(StillWaiting(2, 300.0))

    assert "0 rows/s, 0.0 MB/s, 2 in flight, waited 300 s" in str(tally)


def test_expected_total_shown(tally):
    tally.add(ReadExpected("accounts", 12_000))
    tally.add(stored("accounts"))
    tally.add(stored("contacts"))

    assert shown(tally) == ["accounts 5,000 of about 12,000 rows", "contacts 5,000 rows"]


def test_exceeded_total_hidden(tally):
    tally.add(ReadExpected("accounts", 5000))
    tally.add(stored("accounts"))
    before = shown(tally)
    tally.add(stored("accounts", 1))

    assert before == ["accounts 5,000 of about 5,000 rows"]
    assert shown(tally) == ["accounts 5,001 rows"]


def test_total_may_come_later(tally):
    tally.add(stored("accounts", 50))
    tally.add(ReadExpected("accounts", 60))
    tally.add(ReadExpected("accounts", 160))

    assert shown(tally) == ["accounts 50 of about 160 rows"]


def test_keys_counted_apart_from_rows(tally):
    tally.add(EntityStarted("accounts"))
    tally.add(ReadExpected("accounts", 8000, 9000))
    tally.add(stored("accounts", 8000))
    tally.add(stored("accounts", 5000, keys_only=True))

    assert shown(tally) == ["accounts 5,000 of about 9,000 keys"]
    assert "0 of 1 done, 8,000 rows, " in str(tally)


def test_largest_keep_their_order(tally):
    for name, expected in (("small", 10), ("large", 900), ("middle", 80), ("largest", 5000)):
        tally.add(ReadExpected(name, expected))
        tally.add(stored(name, 1))

    readings, more = tally.find_largest(2)

    assert [reading.entity for reading in readings] == ["large", "largest"]
    assert more == 2


def test_largest_neither_new_nor_finished(tally, clock):
    tally.add(stored("accounts"))
    tally.add(stored("contacts"))
    clock.now += 1
    tally.add(stored("teams"))
    tally.add(EntityFinished(EntityReport("contacts", "completed")))

    readings, more = tally.find_largest(9, for_s=1.0)

    assert ([reading.entity for reading in readings], more) == (["accounts"], 0)


# Plain lines


def test_line_for_each_phase_and_entity(display, lines):
    display.show(PhaseStarted(2, "Signing in"))
    display.show(EntityStarted("accounts"))
    display.show(stored(records=5))
    display.show(finished(fetched=5, added=2, updated=1, unchanged=1, deleted=1))
    display.close()

    assert lines == [
        "[2/6] Signing in",
        "  accounts: completed, 2 added, 1 updated, 1 unchanged, 1 deleted",
    ]


def test_lines_rarer_after_a_minute(display, lines, clock):
    display.show(EntityStarted("accounts"))
    display.show(ReadExpected("accounts", 1_200_000))
    began, spoken = clock.now, []
    for _ in range(400):
        clock.now += 0.5
        display.show(stored(records=100))
        spoken += [clock.now - began] * (len(lines) - len(spoken))

    assert spoken == [10, 20, 30, 40, 50, 60, 120, 180]
    assert lines[-1] == (
        "  0 of 1 done, 36,000 rows, 210 rows/s, 4.2 MB/s, 3 in flight, 3:00; "
        "reading accounts 36,000 of about 1,200,000 rows"
    )


def test_line_names_largest_entities(display, lines, clock):
    for number in range(40):
        display.show(EntityStarted(f"table_{number}"))
        display.show(stored(f"table_{number}", number + 1))
    clock.now += 10
    display.show(stored("table_39", 1))

    assert lines == [
        "  0 of 40 done, 821 rows, 82 rows/s, 8.2 MB/s, 3 in flight, 0:10; "
        "reading table_37 38 rows; table_38 39 rows; table_39 41 rows; 37 more"
    ]


def test_line_while_waiting_for_service(display, lines, clock):
    display.show(EntityStarted("accounts"))
    display.show(stored(records=5000))
    for _ in range(21):
        clock.now += 0.5
        display.show(StillWaiting(1, 300.0))

    assert len(lines) == 1
    assert "waited 300 s for throttling" in lines[0]


def test_no_line_without_reads(display, lines, clock):
    display.show(EntityStarted("accounts"))
    display.show(EntityStarted("contacts"))
    display.show(stored(records=5))
    display.show(finished(added=5))
    clock.now += 30
    display.show(StillWaiting(1, 0.0))

    assert lines == ["  accounts: completed, 5 added"]


def test_page_of_unannounced_entity(display, lines):
    display.show(stored(records=5))

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
def test_finished_entity_with_changes(event, expected):
    assert format_event(event) == expected


# Quiet


def test_quiet_display_prints_nothing(capsys):
    display: Display = QuietDisplay()

    display.show(PhaseStarted(1, "Configuring"))
    display.show(finished(added=1))
    display.close()

    assert capsys.readouterr() == ("", "")
