"""Ranges of ``createdon``: decisions, and whole tables read in ranges from the emulator."""

from __future__ import annotations

import itertools
import json
import random
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from conftest import OLD, World
from hypothesis import given, settings
from hypothesis import strategies as st

from dataverse_sync import EntityConfig, run_sync
from dataverse_sync.emulator import Column, Fault, LoggedRequest, Table
from dataverse_sync.emulator.api import reading as emulator_reading
from dataverse_sync.model import Column as DataColumn
from dataverse_sync.model import Entity, Page, PageRequest, Range
from dataverse_sync.moments import parse_timestamp
from dataverse_sync.sync import ranges, reading
from dataverse_sync.sync.ranges import (
    WHOLE,
    Part,
    RangesRead,
    Seen,
    choose_at_once,
    choose_count,
    find_cut,
    format_second,
    pages_left,
    split,
)
from dataverse_sync.sync.reading import EntityReader

THINGS = Table("vin_thing", "vin_things", "vin_thingid", [Column("vin_name", "String")])
ENTITIES = [EntityConfig("vin_things")]
API = "https://contoso.example/api/data/v9.2/"
START = datetime(2020, 1, 1, tzinfo=UTC)
RANGES = (
    Range(),
    Range(is_null=True),
    Range(None, "2021-01-01T00:00:00Z"),
    Range("2021-01-01T00:00:00Z"),
    Range("2021-01-01T00:00:00Z", "2022-01-01T00:00:00Z"),
)


def day(number: float) -> datetime:
    return START + timedelta(days=number)


def range_of(since: float, until: float | None = None) -> Range:
    end = None if until is None else format_second(day(until))
    return Range(format_second(day(since)), end)


def is_in(part: Range, moment: datetime | None) -> bool:
    """Whether the service's filter of a range includes a moment."""
    if moment is None:
        return part.is_null
    since, until = parse_timestamp(part.since), parse_timestamp(part.until)
    return (
        not part.is_null
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
def test_number_of_ranges_grows_with_table(rows: int | None, most: int | None, count: int) -> None:
    assert choose_count(rows, most) == count


@pytest.mark.parametrize(
    ("took_s", "size", "most", "count"),
    [
        (0.0, 1_000_000, 16, 1),
        (0.01, 1_000_000, 16, 1),  # it is stored in as much time
        (0.011, 1_000_000, 16, 2),
        (0.05, 1_000_000, 16, 5),
        (1.0, 7_000_000, 16, 15),
        (1.0, 7_000_000, 4, 4),
        (1.0, 7_000_000, 1, 1),
        (1.0, 0, 16, 16),
    ],
)
def test_slower_service_gets_more_requests(took_s: float, size: int, most: int, count: int) -> None:
    assert choose_at_once(took_s, size, most) == count


def test_the_filters_of_ranges() -> None:
    assert [part.filter for part in RANGES] == [
        "createdon ne null",
        "createdon eq null",
        "createdon lt 2021-01-01T00:00:00Z",
        "createdon ge 2021-01-01T00:00:00Z",
        "createdon ge 2021-01-01T00:00:00Z and createdon lt 2022-01-01T00:00:00Z",
    ]


@settings(deadline=None)
@given(
    st.sampled_from([None, START - timedelta(days=1), START]),
    st.integers(0, 10**7),
    st.integers(0, 10**7),
    st.integers(1, 40),
    st.lists(st.one_of(st.none(), st.integers(-(10**5), 2 * 10**7))),
)
def test_every_moment_in_one_part(
    since: datetime | None,
    length_s: int,
    reached_s: int,
    count: int,
    seconds: list[int | None],
) -> None:
    newest, reached = START + timedelta(seconds=length_s), START + timedelta(seconds=reached_s)
    whole = Range(since and format_second(since), next_link="on", page=7)

    parts = split(whole, Seen(1, START, reached), newest, count)

    for second in seconds:
        moment = None if second is None else START + timedelta(seconds=second)
        assert sum(is_in(part, moment) for part in parts) == is_in(whole, moment)
    assert 1 <= len(parts) <= count
    assert parts[0] == replace(whole, until=parts[0].until)
    assert all(str(part.since) > format_second(reached) for part in parts[1:])
    assert all(part.next_link is None for part in parts[1:])


def test_parts_are_of_equal_length() -> None:
    whole, newest = Range(), START + timedelta(days=9)

    parts = split(whole, Seen(1, START, START + timedelta(days=1)), newest, 4)

    days = [format_second(START + timedelta(days=day)) for day in (3, 5, 7)]
    assert [part.until for part in parts] == [*days, None]
    assert [part.since for part in parts] == [None, *days]


def test_done_null_and_short_ranges_uncut() -> None:
    newest = START + timedelta(days=1)

    for whole in (Range(is_null=True), Range(format_second(START), is_done=True), Range()):
        assert split(whole, None, newest) == [whole]
    short = Range(format_second(START))
    assert split(short, None, START + timedelta(seconds=2)) == [short]
    assert len(split(short, None, START + timedelta(seconds=5), 40)) == 4


def test_table_cut_after_first_page() -> None:
    whole, nulls, newest = Part(Range(next_link="on")), Part(Range(is_null=True)), day(9)
    assert find_cut([whole, nulls], newest, 3) is None
    whole.seen = Seen(1, START, day(8))  # most of it, to judge by the days

    found = find_cut([whole, nulls], newest, 3)

    assert found is not None
    assert found[0] is whole
    assert len(found[1]) == 4


def test_pages_left_estimated_from_pages_received() -> None:
    begun, newest = range_of(0, 11), day(19)
    seen = Seen(4, day(3), day(7))

    assert pages_left(Part(begun, seen), newest) == 4
    assert pages_left(Part(replace(begun, until=None), seen), newest) == 12
    assert pages_left(Part(replace(begun, is_done=True), seen), newest) == 0
    assert pages_left(Part(begun, Seen(1, day(3), day(3))), newest) == 0
    assert pages_left(Part(begun), newest) == 0


def test_longest_range_halved() -> None:
    narrow_but_long = Part(range_of(0, 30), Seen(15, day(0), day(15)))
    wide_but_short = Part(range_of(30, 90), Seen(20, day(30), day(80)))
    parts = [narrow_but_long, wide_but_short, Part(range_of(90))]

    first, second = find_cut(parts, day(900), 5), find_cut(parts[1:], day(900), 5)

    halves = split(narrow_but_long.range, narrow_but_long.seen, day(900))
    assert first == (narrow_but_long, halves)  # 15 pages left, against 4
    assert len(halves) == 2
    assert second == (
        wide_but_short,
        split(wide_but_short.range, wide_but_short.seen, day(900)),
    )
    wide_but_short.seen = Seen(20, day(30), day(84))
    assert find_cut(parts[1:], day(900), 5) is None


# A read of them, page by page


class PositionService:
    """Serves records with links that hold only a position, so that two ranges may share a link."""

    def __init__(
        self, moments: Sequence[int | None], page_size: int, took_s: Callable[[], float]
    ) -> None:
        known = sorted(at for at in moments if at is not None)
        self.created = [START + timedelta(seconds=at) for at in known]
        self.rows = len(moments)
        self.page_size = page_size
        self.took_s = took_s

    def answer(self, request: PageRequest) -> Page:
        options = parse_qs(urlsplit(request.url).query)
        if "$skiptoken" in options:
            at, end = map(int, options["$skiptoken"][0].split("."))
        else:
            at, end = self.find(options["$filter"][0])
        until = min(at + self.page_size, end)
        token = f"{API}things?$skiptoken={until}.{end}" if until < end else None
        records = tuple(msgspec.Raw(self.record(n)) for n in range(at, until))
        return Page(request, records, next_link=token, size=10**6, took_s=self.took_s())

    def find(self, filter: str) -> tuple[int, int]:
        dated = len(self.created)
        if filter == "createdon eq null":
            return dated, self.rows
        edges = {"ge": 0, "lt": dated}
        for part in filter.replace("createdon ne null", "").split(" and ") if dated else []:
            if part:
                _, word, moment = part.split(" ")
                edges[word] = bisect_left(self.created, datetime.fromisoformat(moment))
        return edges["ge"], edges["lt"]

    def record(self, number: int) -> bytes:
        moment = format_second(self.created[number]) if number < len(self.created) else None
        return json.dumps({"thingid": number, "createdon": moment}).encode()


def read_through(
    service: PositionService, most: int, pick: Callable[[list[PageRequest]], PageRequest]
) -> list[int]:
    """Read a service in ranges; return the stored numbers. ``pick`` chooses the next answer."""

    class Progress:
        """Keeps the stored records in memory."""

        def __init__(self) -> None:
            self.came: list[int] = []
            self.is_complete = False

        def store(self, page: Page) -> None:
            assert not self.is_complete
            self.came += [json.loads(bytes(record))["thingid"] for record in page.records]

        def save(self, ranges: Sequence[Range]) -> None:
            assert not all(one.is_done for one in ranges)

        def complete(self) -> None:
            self.is_complete = True

    newest = service.created[-1] if service.created else START
    entity = Entity("things", "thingid", (DataColumn("createdon", "TEXT"),), "metadata")
    progress = Progress()
    read = RangesRead(EntityReader(entity, API), cast(Any, progress), WHOLE, most, newest)
    asked = list(read.begin())
    while asked:
        assert len(asked) <= most
        request = pick(asked)
        asked.remove(request)
        page = service.answer(request)
        asked += read.follow(page)
        read.store(page)
    assert progress.is_complete
    return progress.came


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.one_of(st.none(), st.integers(0, 60), st.integers(0, 10**6)), max_size=60),
    st.integers(1, 9),
    st.integers(1, 6),
    st.randoms(use_true_random=False),
)
def test_every_record_once_in_any_order(
    moments: list[int | None], page_size: int, most: int, rng: random.Random
) -> None:
    service = PositionService(moments, page_size, lambda: rng.choice([0.0, 0.02, 1.0]))

    assert sorted(read_through(service, most, rng.choice)) == list(range(len(moments)))


@pytest.mark.parametrize("late", [{"took_s": 0.05}, {"took_s": 300.0, "requests": 2}])
def test_one_late_page_starts_no_range(
    late: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = PositionService.answer
    numbers = itertools.count()
    in_flight: list[int] = []

    def answer_late(service: PositionService, request: PageRequest) -> Page:
        page = answer(service, request)
        return replace(page, **late) if next(numbers) == 10 else page

    def pick(asked: list[PageRequest]) -> PageRequest:
        in_flight.append(len(asked))
        return asked[0]

    monkeypatch.setattr(PositionService, "answer", answer_late)
    service = PositionService(range(0, 10**6, 50_000), 1, lambda: 0.005)

    assert sorted(read_through(service, 4, pick)) == list(range(20))
    assert set(in_flight) == {1}


def test_link_into_next_range_accepted() -> None:
    # The range that ends at 505 s reads one record too much, and so comes by the other's link.
    service = PositionService([0, 100, 1000, 1010], 1, lambda: 1.0)

    assert sorted(read_through(service, 2, lambda asked: asked[0])) == [0, 1, 2, 3]


# Over the emulator


@pytest.fixture
def world(make_world: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """200 records over 200 hours, in pages of 5, cut into ranges of 50."""
    monkeypatch.setattr(ranges, "ROWS_PER_RANGE", 50)
    made: World = make_world([THINGS])
    records = [
        {
            "vin_name": f"Thing {n}",
            "createdon": format_second(START + timedelta(hours=n - n % 3)),  # ties of three
            "modifiedon": OLD,
        }
        for n in range(200)
    ]
    made.emulator.insert_many("vin_things", records)
    yield made


def pages(world: World) -> list[LoggedRequest]:
    return [one for one in world.asked("vin_things") if one.records > 0]


def test_large_table_read_in_parallel_ranges(world: World) -> None:
    world.emulator.control.latency_s = 0.02

    report = world.sync(ENTITIES)

    assert report.ok
    assert world.is_mirror("vin_things")
    assert report.totals.added == report.totals.fetched == 200
    assert world.emulator.most_in_flight >= 3
    assert any("createdon%20ge" in one.target for one in world.emulator.log)
    assert any("createdon%20eq%20null" in one.target for one in world.emulator.log)
    assert world.state("vin_things", "last_timestamp") == OLD
    assert world.state("vin_things", "checkpoint") is None


def ranges_asked(world: World) -> list[str]:
    return [one.target for one in world.emulator.log if "createdon%20ge" in one.target]


def test_fast_service_not_asked_for_ranges(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "STORED_PER_S", 1.0)
    world.emulator.insert("vin_things", {"createdon": None, "modifiedon": OLD})

    report = world.sync(ENTITIES)

    assert report.totals.added == report.totals.fetched == 201
    assert world.is_mirror("vin_things")
    assert ranges_asked(world) == []
    assert world.emulator.most_in_flight == 1


def test_ranges_begin_when_service_slows_down(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "STORED_PER_S", 1.0)

    def slow_down(request: LoggedRequest) -> None:
        if len(pages(world)) == 10:
            monkeypatch.setattr(ranges, "STORED_PER_S", 1e9)
            world.emulator.control.latency_s = 0.02

    world.emulator.control.on_request = slow_down
    report = world.sync(ENTITIES)

    assert report.totals.added == report.totals.fetched == 200
    assert world.is_mirror("vin_things")
    assert len(ranges_asked(world)) >= 3
    assert world.emulator.most_in_flight >= 3


def test_begun_ranges_resume_in_parallel(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = break_off_in_ranges(world)
    monkeypatch.setattr(ranges, "STORED_PER_S", 1.0)  # no more than were begun

    second = world.sync(ENTITIES)

    assert second.ok
    assert world.is_mirror("vin_things")
    assert len([one for one in kept if one["next_link"]]) >= 3
    assert world.emulator.most_in_flight >= 3  # one of them may be for metadata


def test_one_segment_reads_one_chain(world: World) -> None:
    run_sync(world.config(segments=1), ENTITIES)

    assert world.is_mirror("vin_things")
    assert not any("createdon" in one.target.split("?")[-1][:40] for one in pages(world))
    assert len(pages(world)) == 40


def test_small_table_read_as_one_chain(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "ROWS_PER_RANGE", 101)

    world.sync(ENTITIES)

    assert len(pages(world)) == 40
    assert world.is_mirror("vin_things")


def test_ranges_of_uneven_table_balanced(world: World) -> None:
    # All but a few records are in the newest tenth of the time.
    for key in world.emulator.ids("vin_things"):
        world.emulator.delete("vin_things", key)
    late = START + timedelta(days=3650)
    records = [{"createdon": format_second(START), "modifiedon": OLD}]
    records += [
        {"createdon": format_second(late + timedelta(hours=n)), "modifiedon": OLD}
        for n in range(300)
    ]
    world.emulator.insert_many("vin_things", records)
    world.emulator.control.latency_s = 0.01

    report = world.sync(ENTITIES)

    assert world.is_mirror("vin_things")
    assert report.totals.added == report.totals.fetched == 301
    began = {one.target for one in pages(world) if "skiptoken" not in one.target}
    assert len(began) > 4  # more ranges were begun with records in them than were cut at first
    assert len(pages(world)) < 90  # of 61 that one chain takes


def test_undated_and_new_records_read(world: World) -> None:
    world.emulator.insert_many(
        "vin_things", [{"createdon": None, "modifiedon": OLD, "vin_name": "?"} for _ in range(7)]
    )

    def create(request: LoggedRequest) -> None:
        if "skiptoken" in request.target:
            world.emulator.control.on_request = None
            world.emulator.insert("vin_things", {"vin_name": "New"})

    world.emulator.control.on_request = create
    world.sync(ENTITIES)
    world.sync(ENTITIES)

    assert world.is_mirror("vin_things")


@pytest.mark.parametrize("status", [400, 501])
def test_refused_ranges_become_one_chain(world: World, status: int) -> None:
    world.emulator.control.fault(Fault("status", match="createdon%20ge", status=status, times=99))

    report = world.sync(ENTITIES)

    assert report.ok
    assert world.is_mirror("vin_things")


def test_refused_edges_become_one_chain(world: World) -> None:
    world.emulator.control.fault(
        Fault("status", match="createdon%20ne%20null", status=400, times=99)
    )

    report = world.sync(ENTITIES)

    assert report.ok
    assert world.is_mirror("vin_things")
    assert len(pages(world)) == 40


def test_ignored_order_becomes_one_chain(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    parse_orderby = emulator_reading.parse_orderby
    monkeypatch.setattr(
        emulator_reading, "parse_orderby", lambda _, table: parse_orderby(None, table)
    )
    world.page_size = 20

    report = world.sync(ENTITIES)

    assert report.ok
    assert world.is_mirror("vin_things")
    assert "does not keep to the order of createdon" in caplog.text


@pytest.mark.parametrize("moment", ['"long ago"', "17", "null"])
def test_invalid_edges_become_one_chain(world: World, moment: str) -> None:
    body = f'{{"value":[{{"createdon":{moment}}}]}}'
    world.emulator.control.fault(Fault("body", match="createdon%20ne%20null", body=body, times=2))

    report = world.sync(ENTITIES)

    assert report.ok
    assert world.is_mirror("vin_things")
    assert len(pages(world)) == 40


def test_without_counts_it_is_one_chain(world: World) -> None:
    world.emulator.control.fault(
        Fault("status", match="RetrieveTotalRecordCount", status=400, times=99)
    )

    report = world.sync(ENTITIES)

    assert report.ok
    assert world.is_mirror("vin_things")
    assert len(pages(world)) == 40


@pytest.mark.parametrize("page", [3, 9, 17, 30])
def test_interrupted_ranges_resume(world: World, page: int) -> None:
    world.emulator.control.fault(
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


def break_off_in_ranges(world: World, page: int = 12) -> list[Any]:
    """Run a first sync that fails midway; return the ranges of its checkpoint."""
    world.emulator.control.latency_s = 0.005
    world.emulator.control.fault(
        Fault("status", match="GET .*vin_things.*skiptoken", status=403, skip=page)
    )
    assert not world.sync(ENTITIES).ok
    world.emulator.control.faults.clear()
    kept: list[Any] = json.loads(world.state("vin_things", "checkpoint"))["segments"]
    return kept


@pytest.mark.parametrize("status", [400, 404])
@pytest.mark.parametrize("refused", [1, 99])
def test_refused_stored_links_restart_read(world: World, status: int, refused: int) -> None:
    kept = [one["next_link"] for one in break_off_in_ranges(world) if one["next_link"]]
    assert len(kept) >= 3
    for link in kept[:refused]:
        # Read anew, a range may come by the same link again; by then it is not refused.
        target = re.escape(link.partition("/api")[2])
        world.emulator.control.fault(Fault("status", match=target, status=status))

    report = world.sync(ENTITIES)

    assert report.ok
    assert world.is_mirror("vin_things")


@pytest.mark.parametrize("status", [400, 501])
@pytest.mark.parametrize("refused", ["createdon%20ge", "createdon%20eq%20null"])
def test_ranges_refused_on_resume_become_chain(
    world: World, monkeypatch: pytest.MonkeyPatch, refused: str, status: int
) -> None:
    with monkeypatch.context() as fast:
        fast.setattr(ranges, "STORED_PER_S", 1.0)
        break_off_in_ranges(world)
    world.emulator.control.fault(Fault("status", match=refused, status=status, times=99))

    report = world.sync(ENTITIES)

    assert report.ok
    assert world.is_mirror("vin_things")


def test_endless_empty_pages_fail_ranges(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "EMPTY_PAGES", 20)
    answered = itertools.count()

    def lead_on(request: LoggedRequest) -> None:
        link = f"{world.emulator.api_url}vin_things?$skiptoken={next(answered)}"
        body = json.dumps({"value": [], "@odata.nextLink": link})
        world.emulator.control.fault(Fault("body", match="GET .*vin_things.*skiptoken", body=body))

    world.emulator.control.on_request = lead_on
    report = world.sync(ENTITIES)

    assert "20 pages in a row held no record" in str(report.failed[0].error)


def test_disorder_on_resume_becomes_one_chain(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    in_ranges = "GET .*vin_things.*(skiptoken|createdon%20ge)"
    world.emulator.control.fault(Fault("status", match=in_ranges, status=403, skip=9))
    first = world.sync(ENTITIES)
    world.emulator.control.faults.clear()
    key = world.emulator.ids("vin_things")[0]
    body = f'{{"value":[{{"vin_thingid":"{key}","createdon":null,"modifiedon":"{OLD}"}}]}}'
    world.emulator.control.fault(Fault("body", match=in_ranges, body=body))

    second = world.sync(ENTITIES)

    assert not first.ok
    assert second.ok
    assert world.is_mirror("vin_things")
    assert "does not keep to the order of createdon" in caplog.text


def test_full_read_keeps_unchanged_rows(world: World) -> None:
    world.sync(ENTITIES)
    before = world.rows()

    report = world.sync(ENTITIES, full=True)

    assert report.totals.unchanged == 200
    assert world.rows() == before
