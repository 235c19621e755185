"""Ranges of ``createdon``: pure decisions, and whole tables read in ranges over the emulator."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from conftest import OLD, World
from hypothesis import given, settings
from hypothesis import strategies as st

from dataverse_sync import EntityConfig, run_sync, segments
from dataverse_sync.emulator import Column, Fault, LoggedRequest, Table, reading
from dataverse_sync.odata import parse_timestamp
from dataverse_sync.segments import (
    Came,
    Segment,
    choose_count,
    cut,
    find_longest,
    pages_left,
    split,
    to_text,
)

THINGS = Table("vin_thing", "vin_things", "vin_thingid", [Column("vin_name", "String")])
ENTITIES = [EntityConfig("vin_things")]
START = datetime(2020, 1, 1, tzinfo=UTC)


def is_in(segment: Segment, moment: datetime | None) -> bool:
    """What the service does with the filter of a range."""
    if moment is None:
        return segment.is_null
    since, until = parse_timestamp(segment.since), parse_timestamp(segment.until)
    return (
        not segment.is_null
        and (since is None or moment >= since)
        and (until is None or moment < until)
    )


@pytest.mark.parametrize(
    ("rows", "most", "count"),
    [
        (None, None, 1),
        (0, None, 1),
        (39_999, None, 1),
        (40_000, None, 2),
        (1_000_000, None, 16),
        (1_000_000, 4, 4),
        (1_000_000, 1, 1),
        (1_000_000, 32, 32),
    ],
)
def test_the_number_of_ranges_grows_with_the_table(
    rows: int | None, most: int | None, count: int
) -> None:
    assert choose_count(rows, most) == count


@settings(deadline=None)
@given(
    st.integers(0, 10**9),
    st.integers(1, 40),
    st.lists(st.one_of(st.none(), st.integers(-(10**5), 10**9))),
)
def test_every_record_is_in_exactly_one_range(
    length_s: int, count: int, seconds: list[int | None]
) -> None:
    ranges = cut(START, START + timedelta(seconds=length_s), count)

    for second in seconds:
        moment = None if second is None else START + timedelta(seconds=second)
        assert sum(is_in(segment, moment) for segment in ranges) == 1


@settings(deadline=None)
@given(st.integers(0, 10**7), st.integers(0, 10**7), st.integers(0, 10**7))
def test_halving_loses_nothing_and_takes_nothing_twice(
    length_s: int, reached_s: int, second: int
) -> None:
    newest = START + timedelta(seconds=length_s)
    whole = Segment(to_text(START), None)
    reached = START + timedelta(seconds=reached_s)

    halves = split(whole, Came(1, START, reached), newest)

    if halves is not None:
        moment = START + timedelta(seconds=second)
        assert sum(is_in(half, moment) for half in halves) == is_in(whole, moment)
        assert str(halves[1].since) > to_text(reached)


def test_what_is_done_or_null_or_short_is_not_halved() -> None:
    newest = START + timedelta(days=1)

    assert split(Segment(is_null=True), None, newest) is None
    assert split(Segment(to_text(START), is_done=True), None, newest) is None
    assert split(Segment(), None, newest) is None
    assert split(Segment(to_text(START)), None, START + timedelta(seconds=2)) is None


def test_pages_left_are_told_by_those_that_came() -> None:
    start, newest = START + timedelta(days=3), START + timedelta(days=19)
    begun = Segment(to_text(START), to_text(START + timedelta(days=11)))
    came = Came(4, start, start + timedelta(days=4))

    assert pages_left(begun, came, newest) == 4
    assert pages_left(replace(begun, until=None), came, newest) == 12
    assert pages_left(replace(begun, is_done=True), came, newest) == 0
    assert pages_left(begun, Came(1, start, start), newest) == 0
    assert pages_left(begun, None, newest) == 0


def test_the_range_with_most_pages_left_is_halved() -> None:
    def day(number: float) -> datetime:
        return START + timedelta(days=number)

    narrow_but_long = Segment(to_text(day(0)), to_text(day(30)))
    wide_but_short = Segment(to_text(day(30)), to_text(day(90)))
    ranges = [narrow_but_long, wide_but_short, Segment(to_text(day(90)))]
    came = [Came(15, day(0), day(15)), Came(20, day(30), day(80)), None]

    assert find_longest(ranges, came, day(900)) == 0  # 15 pages left, against 4
    assert find_longest(ranges[1:], came[1:], day(900)) == 0
    assert find_longest(ranges[1:], [Came(20, day(30), day(84)), None], day(900)) is None


# Over the emulator


@pytest.fixture
def world(make_world: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """200 records over 200 hours, in pages of 5, cut into ranges of 50."""
    monkeypatch.setattr(segments, "ROWS_PER_SEGMENT", 50)
    made: World = make_world([THINGS])
    records = [
        {
            "vin_name": f"Thing {n}",
            "createdon": to_text(START + timedelta(hours=n - n % 3)),  # ties of three
            "modifiedon": OLD,
        }
        for n in range(200)
    ]
    made.emulator.insert_many("vin_things", records)
    yield made


def pages(world: World) -> list[LoggedRequest]:
    return [one for one in world.asked("vin_things") if one.records > 0]


def test_a_large_table_is_read_in_ranges_at_once(world: World) -> None:
    world.emulator.latency_s = 0.02

    report = world.sync(ENTITIES)

    assert report.ok
    assert world.is_mirror("vin_things")
    assert report.totals.added == report.totals.fetched == 200
    assert world.emulator.most_in_flight >= 3
    assert any("createdon%20ge" in one.target for one in world.emulator.log)
    assert any("createdon%20eq%20null" in one.target for one in world.emulator.log)
    assert world.state("vin_things", "last_timestamp") == OLD
    assert world.state("vin_things", "checkpoint") is None


def test_one_segment_is_one_chain_of_pages(world: World) -> None:
    run_sync(world.config(segments=1), ENTITIES)

    assert world.is_mirror("vin_things")
    assert not any("createdon" in one.target.split("?")[-1][:40] for one in pages(world))
    assert len(pages(world)) == 40


def test_a_small_table_is_one_chain_of_pages(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "ROWS_PER_SEGMENT", 101)

    world.sync(ENTITIES)

    assert len(pages(world)) == 40
    assert world.is_mirror("vin_things")


def test_an_uneven_table_is_balanced_while_it_is_read(world: World) -> None:
    # All but a few records are in the newest tenth of the time.
    for key in world.emulator.ids("vin_things"):
        world.emulator.delete("vin_things", key)
    late = START + timedelta(days=3650)
    records = [{"createdon": to_text(START), "modifiedon": OLD}]
    records += [
        {"createdon": to_text(late + timedelta(hours=n)), "modifiedon": OLD} for n in range(300)
    ]
    world.emulator.insert_many("vin_things", records)
    world.emulator.latency_s = 0.01

    report = world.sync(ENTITIES)

    assert world.is_mirror("vin_things")
    assert report.totals.added == report.totals.fetched == 301
    began = {one.target for one in pages(world) if "skiptoken" not in one.target}
    assert len(began) > 4  # more ranges were begun with records in them than were cut at first
    assert len(pages(world)) < 90  # of 61 that one chain takes


def test_records_without_createdon_and_records_created_meanwhile_come(world: World) -> None:
    world.emulator.insert_many(
        "vin_things", [{"createdon": None, "modifiedon": OLD, "vin_name": "?"} for _ in range(7)]
    )

    def create(request: LoggedRequest) -> None:
        if "skiptoken" in request.target:
            world.emulator.on_request = None
            world.emulator.insert("vin_things", {"vin_name": "New"})

    world.emulator.on_request = create
    world.sync(ENTITIES)
    world.sync(ENTITIES)

    assert world.is_mirror("vin_things")


@pytest.mark.parametrize("status", [400, 501])
def test_ranges_that_are_refused_become_one_chain(world: World, status: int) -> None:
    world.emulator.fault(Fault("status", match="createdon%20ge", status=status, times=99))

    report = world.sync(ENTITIES)

    assert report.ok
    assert world.is_mirror("vin_things")


def test_edges_that_are_refused_become_one_chain(world: World) -> None:
    world.emulator.fault(Fault("status", match="createdon%20ne%20null", status=400, times=99))

    report = world.sync(ENTITIES)

    assert report.ok
    assert world.is_mirror("vin_things")
    assert len(pages(world)) == 40


def test_a_service_that_ignores_the_order_is_read_as_one_chain(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    parse_orderby = reading.parse_orderby
    monkeypatch.setattr(reading, "parse_orderby", lambda _, table: parse_orderby(None, table))
    world.page_size = 20

    report = world.sync(ENTITIES)

    assert report.ok
    assert world.is_mirror("vin_things")
    assert "does not keep to the order of createdon" in caplog.text


@pytest.mark.parametrize("moment", ['"long ago"', "17", "null"])
def test_edges_that_are_no_moments_are_read_as_one_chain(world: World, moment: str) -> None:
    body = f'{{"value":[{{"createdon":{moment}}}]}}'
    world.emulator.fault(Fault("body", match="createdon%20ne%20null", body=body, times=2))

    report = world.sync(ENTITIES)

    assert report.ok
    assert world.is_mirror("vin_things")
    assert len(pages(world)) == 40


def test_without_counts_it_is_one_chain(world: World) -> None:
    world.emulator.fault(Fault("status", match="RetrieveTotalRecordCount", status=400, times=99))

    report = world.sync(ENTITIES)

    assert report.ok
    assert world.is_mirror("vin_things")
    assert len(pages(world)) == 40


@pytest.mark.parametrize("page", [3, 9, 17, 30])
def test_a_read_in_ranges_is_taken_up_where_it_stopped(world: World, page: int) -> None:
    world.emulator.fault(
        Fault("status", match="GET .*vin_things.*(skiptoken|createdon%20ge)", status=403, skip=page)
    )
    first = world.sync(ENTITIES)
    committed = len(world.copy("vin_things"))
    before = {one.target for one in pages(world) if one.status == 200}
    assert not first.ok
    assert 0 < committed < 200

    second = world.sync(ENTITIES)

    assert second.ok
    assert world.is_mirror("vin_things")
    assert second.totals.added == 200 - committed
    # What was in flight when the run ended was not committed, and may be asked for again.
    again = before & {one.target for one in pages(world)}
    assert len(again) <= 5


def test_disorder_in_a_read_that_is_taken_up_means_one_chain(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    in_ranges = "GET .*vin_things.*(skiptoken|createdon%20ge)"
    world.emulator.fault(Fault("status", match=in_ranges, status=403, skip=9))
    first = world.sync(ENTITIES)
    world.emulator.clear_faults()
    key = world.emulator.ids("vin_things")[0]
    body = f'{{"value":[{{"vin_thingid":"{key}","createdon":null,"modifiedon":"{OLD}"}}]}}'
    world.emulator.fault(Fault("body", match=in_ranges, body=body))

    second = world.sync(ENTITIES)

    assert not first.ok
    assert second.ok
    assert world.is_mirror("vin_things")
    assert "does not keep to the order of createdon" in caplog.text


def test_a_full_read_in_ranges_changes_nothing_that_is_unchanged(world: World) -> None:
    world.sync(ENTITIES)
    before = world.rows()

    report = world.sync(ENTITIES, full=True)

    assert report.totals.unchanged == 200
    assert world.rows() == before
