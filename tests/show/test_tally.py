"""How far a run has come: counts, speeds, and which entities are worth showing."""

from __future__ import annotations

import pytest

from dataverse_sync.model import (
    EntityFinished,
    EntityReport,
    EntityStarted,
    PageStored,
    ReadExpected,
    StillWaiting,
)
from dataverse_sync.show.tally import Tally, format_seconds


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def stored(entity: str, records: int = 5000, *, keys_only: bool = False) -> PageStored:
    return PageStored(entity, records, 2_000_000, 3, keys_only=keys_only)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tally(clock: Clock) -> Tally:
    return Tally(clock)


def shown(tally: Tally) -> list[str]:
    return [f"{reading.entity} {reading}" for reading in tally.find_largest(9)[0]]


def test_a_run_is_told_in_one_line(tally, clock):
    for name in ("accounts", "contacts", "teams"):
        tally.note(EntityStarted(name))
    clock.now += 4
    tally.note(stored("accounts", 6000))
    tally.note(EntityFinished(EntityReport("accounts", "completed")))
    tally.note(PageStored("contacts", 2000, 2_000_000, 7, waited_s=30.0))

    assert str(tally) == (
        "1 of 3 done, 8,000 rows, 2,000 rows/s, 1.0 MB/s, 7 in flight, "
        "waited 30 s for throttling, 0:04"
    )


def test_speeds_are_those_of_the_last_ten_seconds(tally, clock):
    tally.note(EntityStarted("accounts"))
    tally.note(stored("accounts", 90_000))
    clock.now += 60
    tally.note(stored("accounts", 5000))

    assert "95,000 rows, 500 rows/s, 0.2 MB/s" in str(tally)


def test_where_nothing_comes_any_more_the_speed_falls_to_nothing(tally, clock):
    tally.note(EntityStarted("accounts"))
    tally.note(stored("accounts"))
    clock.now += 11
    tally.note(StillWaiting(2, 300.0))

    assert "0 rows/s, 0.0 MB/s, 2 in flight, waited 300 s" in str(tally)


def test_a_reading_has_a_total_where_one_is_expected(tally):
    tally.note(ReadExpected("accounts", 12_000))
    tally.note(stored("accounts"))
    tally.note(stored("contacts"))

    assert shown(tally) == ["accounts 5,000 of about 12,000 rows", "contacts 5,000 rows"]


def test_a_total_that_is_exceeded_is_not_held_up_any_longer(tally):
    tally.note(ReadExpected("accounts", 5000))
    tally.note(stored("accounts"))
    before = shown(tally)
    tally.note(stored("accounts", 1))

    assert before == ["accounts 5,000 of about 5,000 rows"]
    assert shown(tally) == ["accounts 5,001 rows"]


def test_a_total_may_come_later_and_grow(tally):
    tally.note(stored("accounts", 50))
    tally.note(ReadExpected("accounts", 60))
    tally.note(ReadExpected("accounts", 160))

    assert shown(tally) == ["accounts 50 of about 160 rows"]


def test_keys_are_counted_apart_from_rows(tally):
    tally.note(EntityStarted("accounts"))
    tally.note(ReadExpected("accounts", 8000, 9000))
    tally.note(stored("accounts", 8000))
    tally.note(stored("accounts", 5000, keys_only=True))

    assert shown(tally) == ["accounts 5,000 of about 9,000 keys"]
    assert "0 of 1 done, 8,000 rows, " in str(tally)


def test_the_largest_are_chosen_and_stay_in_their_order(tally):
    for name, expected in (("small", 10), ("large", 900), ("middle", 80), ("largest", 5000)):
        tally.note(ReadExpected(name, expected))
        tally.note(stored(name, 1))

    readings, more = tally.find_largest(2)

    assert [reading.entity for reading in readings] == ["large", "largest"]
    assert more == 2


def test_what_has_just_begun_and_what_is_finished_are_not_among_them(tally, clock):
    tally.note(stored("accounts"))
    tally.note(stored("contacts"))
    clock.now += 1
    tally.note(stored("teams"))
    tally.note(EntityFinished(EntityReport("contacts", "completed")))

    readings, more = tally.find_largest(9, for_s=1.0)

    assert ([reading.entity for reading in readings], more) == (["accounts"], 0)


@pytest.mark.parametrize(
    ("seconds", "expected"), [(7.9, "0:07"), (720, "12:00"), (11045, "3:04:05")]
)
def test_time_is_told_as_a_clock_shows_it(seconds, expected):
    assert format_seconds(seconds) == expected
