"""How one entity is read: the plan, and answers that are not as they should be."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from unittest.mock import patch

import pytest
from conftest import CANDIDATES, OLD, PRODUCTS, insert, raw
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataverse_sync import EntityConfig
from dataverse_sync.emulator import Fault
from dataverse_sync.errors import PageError
from dataverse_sync.model import Column, Counts, Entity, Page, PageRequest
from dataverse_sync.moments import parse_timestamp
from dataverse_sync.store.sync_state import Checkpoint, EntityState
from dataverse_sync.store.tables import build_table
from dataverse_sync.sync import entity as reads
from dataverse_sync.sync.entity import EntityRun, newest_of, plan_read

API = "https://org.crm.dynamics.com/api/data/v9.2/"
CHECKPOINT = Checkpoint(f"{API}accounts?$skiptoken=x", 4, OLD, "2026-11-23T02:00:00+00:00")
BOOKMARKED = EntityState("completed", bookmark=OLD)
BROKEN_OFF = EntityState("failed", bookmark=OLD, checkpoint=CHECKPOINT)
ONLY = [EntityConfig("vin_candidates")]
PRODUCTS_ONLY = [EntityConfig("vin_products")]


# The plan


@pytest.mark.parametrize(
    ("state", "has_modifiedon", "full", "kind", "since"),
    [
        (EntityState(), True, False, "full", None),
        (BOOKMARKED, True, False, "since", OLD),
        (BOOKMARKED, True, True, "full", None),
        (BOOKMARKED, False, False, "full", None),
        (BROKEN_OFF, True, False, "resume", OLD),
        (BROKEN_OFF, True, True, "full", None),
        (
            replace(BROKEN_OFF, checkpoint=replace(CHECKPOINT, full_asked=True, since=None)),
            True,
            True,
            "resume",
            None,
        ),
    ],
)
def test_a_read_is_in_full_since_a_bookmark_or_from_a_checkpoint(
    state, has_modifiedon, full, kind, since
):
    plan = plan_read(state, has_modifiedon, full, API)

    assert (plan.kind, plan.since) == (kind, since)
    assert plan.why
    assert (plan.checkpoint is not None) == (kind == "resume")


def test_a_checkpoint_of_another_environment_is_not_followed():
    elsewhere = replace(CHECKPOINT, next_link="https://evil.example/api/data/v9.2/accounts?x")

    plan = plan_read(replace(BROKEN_OFF, checkpoint=elsewhere), True, False, API)

    assert (plan.kind, plan.since) == ("since", OLD)


MOMENTS = ["2024-01-01T00:00:00Z", "2024-01-01T00:00:00.5Z", "2024-01-01T02:00:00+02:00", "2023"]


@given(st.lists(st.sampled_from([*MOMENTS, "2024-02-30T00:00:00Z", "soon", None, 7, ""])))
def test_the_newest_of_many_is_the_latest_moment_among_them(values):
    newest = newest_of(values)

    moments = [parse_timestamp(value) for value in values if parse_timestamp(value)]
    assert parse_timestamp(newest) == max(moments, default=None)
    assert newest is None or newest in values


def test_of_many_texts_for_one_moment_the_first_in_order_is_taken():
    texts = [f"2024-01-01T{hour:02}:00:00+{hour:02}:00" for hour in range(14)]

    for at in range(14):
        assert newest_of(texts[at:]) == texts[at]


# What is tried first


THINGS = build_table(
    Entity(
        "things", "thingid", (Column("size", "INTEGER"), Column("modifiedon", "TEXT")), "metadata"
    )
)
RECORDS = st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 3)), max_size=12)


def page_of(records) -> Page:
    texts = [
        json.dumps({"thingid": key, "size": size, "modifiedon": MOMENTS[size % 3]})
        for key, size in records
    ]
    return Page(PageRequest("things", "https://x/things"), tuple(raw(text) for text in texts))


def run_over(connection) -> EntityRun:
    return EntityRun(
        config=EntityConfig("things"),
        table=THINGS,
        state=EntityState(),
        connection=connection,
        api_url=API,
        now=lambda: datetime(2026, 11, 23, tzinfo=UTC),
        log_id=1,
    )


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(there=RECORDS, coming=RECORDS, at_once=st.integers(1, 5))
def test_what_is_tried_first_changes_nothing_of_what_comes_out(connection, there, coming, at_once):
    outcomes = []

    for expect in ("changed", "same", "new"):
        THINGS.table.drop(connection, checkfirst=True)
        THINGS.table.create(connection)
        run_over(connection).upsert(page_of(there))
        run = run_over(connection)
        with patch.object(reads, "ROWS_PER_CALL", at_once):
            keys, newest = run.upsert(page_of(coming), expect=expect)
        rows = connection.exec_driver_sql("SELECT * FROM things ORDER BY thingid").all()
        outcomes.append((sorted(keys), newest, run.counts, rows))

    assert outcomes[1] == outcomes[0]
    assert outcomes[2] == outcomes[0]


def test_a_record_that_cannot_be_a_row_leaves_the_others_of_its_page_unwritten(connection):
    THINGS.table.create(connection)
    run = run_over(connection)
    good = page_of([("a", 1), ("b", 2)])

    for expect in ("changed", "same", "new"):
        with pytest.raises(PageError, match="has no thingid"):
            run.upsert(replace(good, records=(*good.records, raw('{"size": 3}'))), expect=expect)

    assert connection.exec_driver_sql("SELECT count(*) FROM things").scalar() == 0
    assert run.counts == Counts()


@pytest.mark.parametrize("member", ["thingid", "modifiedon", "text"])
@pytest.mark.parametrize("expect", ["changed", "same", "new"])
def test_a_record_that_is_no_text_is_not_taken_for_one_that_is_stored(connection, member, expect):
    THINGS.table.create(connection)
    values = {"thingid": "a", "modifiedon": MOMENTS[0], "text": "x", member: "\ufffd"}
    stored = json.dumps(values, ensure_ascii=False).encode()
    run_over(connection).upsert(replace(page_of([]), records=(raw(stored),)))
    broken = raw(stored.replace("\ufffd".encode(), b"\xff"))

    with pytest.raises(PageError, match="not UTF-8"):
        run_over(connection).upsert(replace(page_of([]), records=(broken,)), expect=expect)


def test_rows_that_were_changed_by_hand_are_mended_where_they_are_read_again(connection):
    page = page_of([("a", 1), ("b", 2), ("c", 3)])
    THINGS.table.create(connection)
    run_over(connection).upsert(page)
    rows = "SELECT thingid, json_response FROM things ORDER BY thingid"
    before = connection.exec_driver_sql(rows).all()
    other = "SELECT json_response FROM things WHERE thingid = 'b'"
    connection.exec_driver_sql(f"UPDATE things SET json_response = ({other}) WHERE thingid = 'c'")
    connection.exec_driver_sql("UPDATE things SET thingid = 'A' WHERE thingid = 'a'")

    run_over(connection).upsert(page, expect="same")

    after = connection.exec_driver_sql(rows).all()
    assert after == [("A", before[0][1]), *before]


# Answers that are not as they should be


@pytest.fixture
def candidates(make_world):
    world = make_world([CANDIDATES])
    insert(world.emulator, "vin_candidates", [{"vin_name": str(n)} for n in range(13)])
    return world


def test_a_link_that_leads_in_a_circle_fails_the_entity(candidates):
    pages = []

    def circle(request):
        if request.kind == "data" and "$skiptoken" in request.query:
            pages.append(request.target)
        if len(pages) == 2:
            link = f"{candidates.emulator.origin}{pages[0]}"
            candidates.emulator.fault(Fault("other_origin_link", match="skiptoken", location=link))

    candidates.emulator.on_request = circle
    report = candidates.sync(ONLY)

    assert "leads back to a page already read" in report.failed[0].error
    assert len(candidates.copy("vin_candidates")) == 10


def test_a_link_to_another_origin_is_not_followed(candidates):
    link = "https://evil.example/api/data/v9.2/vin_candidates?$skiptoken=x"
    pattern = r"/vin_candidates\?"
    candidates.emulator.fault(Fault("other_origin_link", match=pattern, location=link))

    report = candidates.sync(ONLY)

    assert "leads to another origin" in report.failed[0].error
    assert report.failed[0].requests == len(candidates.asked("vin_candidates"))
    assert candidates.copy("vin_candidates") == {}


def test_empty_pages_without_end_end(candidates, monkeypatch):
    monkeypatch.setattr("dataverse_sync.sync.reading.EMPTY_PAGES", 20)
    candidates.emulator.fault(Fault("empty_page_with_link", match=r"/vin_candidates\?", times=99))

    report = candidates.sync(ONLY)

    assert "20 pages in a row held no record" in report.failed[0].error
    assert len(candidates.asked()) == 21


def test_some_empty_pages_are_no_end(candidates):
    pattern = r"/vin_candidates\?"
    candidates.emulator.fault(Fault("empty_page_with_link", match=pattern, times=3, skip=1))

    report = candidates.sync(ONLY)

    assert report.ok
    assert candidates.is_mirror("vin_candidates")


def test_a_page_that_comes_twice_is_stored_once_and_what_it_hid_comes_next_time(candidates):
    candidates.emulator.fault(Fault("repeat_page", match="skiptoken"))
    candidates.sync(ONLY)

    report = candidates.sync(ONLY)

    assert report.ok
    assert candidates.is_mirror("vin_candidates")


@pytest.mark.parametrize("entry", ['{"versionnumber":1}', "7"])
def test_an_entry_of_a_comparison_that_has_no_key_removes_nothing(candidates, entry):
    candidates.sync(ONLY)
    before = candidates.copy("vin_candidates")
    body = f'{{"value":[{entry}]}}'.encode()
    candidates.emulator.fault(Fault("body", match=r"/vin_candidates\?.*select=", body=body))

    report = candidates.sync(ONLY)

    assert "vin_candidates, page 1: an entry" in report.failed[0].error
    assert candidates.copy("vin_candidates") == before


def test_what_cannot_be_asked_for_by_id_is_removed_on_the_complete_read(candidates):
    candidates.sync(ONLY)
    candidates.emulator.delete("vin_candidates", min(candidates.copy("vin_candidates")))
    candidates.emulator.fault(Fault("status", match=r"filter=vin_candidateid", times=9, status=400))

    report = candidates.sync(ONLY)

    assert report.ok
    assert candidates.is_mirror("vin_candidates")


def test_what_is_forbidden_to_be_asked_for_by_id_removes_nothing(candidates):
    candidates.sync(ONLY)
    before = candidates.copy("vin_candidates")
    candidates.emulator.delete("vin_candidates", min(before))
    candidates.emulator.fault(Fault("status", match=r"filter=vin_candidateid", status=403))

    report = candidates.sync(ONLY)

    assert [entity.name for entity in report.failed] == ["vin_candidates"]
    assert candidates.copy("vin_candidates") == before


def test_what_differs_and_is_gone_before_it_is_fetched_is_removed(candidates):
    candidates.sync(ONLY)
    key = min(candidates.copy("vin_candidates"))
    candidates.emulator.update("vin_candidates", key, {"vin_name": "import"}, modifiedon=OLD)

    def delete(request):
        if request.kind == "data" and " eq " in request.query.get("$filter", ""):
            candidates.emulator.on_request = None
            candidates.emulator.delete("vin_candidates", key)

    candidates.emulator.on_request = delete
    report = candidates.sync(ONLY)

    assert report.ok
    assert list(candidates.removed("vin_candidates")) == [key]
    assert candidates.is_mirror("vin_candidates")


def test_keys_that_are_no_guids_are_read_in_full_where_they_differ(make_world):
    world = make_world([CANDIDATES])
    records = [{"vin_candidateid": f"{n}", "versionnumber": n, "modifiedon": OLD} for n in range(3)]

    def serve(rows, times):
        body = json.dumps({"value": rows}).encode()
        world.emulator.fault(Fault("body", match=r"/vin_candidates\?", times=times, body=body))

    serve(records, times=1)
    world.sync(ONLY)
    serve([], times=1)  # nothing changed by modifiedon; the comparison tells otherwise
    serve([{**records[0], "versionnumber": 9}, *records[1:]], times=2)

    report = world.sync(ONLY)

    assert report.ok
    assert len(world.asked()) == 2
    assert world.query("SELECT versionnumber FROM vin_candidates ORDER BY 1") == [(1,), (2,), (9,)]


def test_a_key_that_is_no_text_any_more_is_mended(candidates):
    candidates.sync(ONLY)
    candidates.execute("UPDATE vin_candidates SET vin_candidateid = x'ff' WHERE rowid = 3")

    report = candidates.sync(ONLY, full=True)

    assert report.ok
    assert candidates.is_mirror("vin_candidates")


@pytest.mark.parametrize("returned", [(0, 1), (0, 0), (0,)])
def test_a_key_that_comes_twice_does_not_hide_one_that_is_gone(make_world, returned):
    world = make_world([CANDIDATES])
    keys = [f"{n:08d}-1111-1111-1111-111111111111" for n in range(2)]
    records = [{"vin_candidateid": key, "modifiedon": OLD} for key in keys]

    def serve(rows):
        body = json.dumps({"value": rows}).encode()
        world.emulator.fault(Fault("body", match=r"/vin_candidates\?", times=1, body=body))

    serve(records)
    world.sync(ONLY)
    serve([records[at] for at in returned])

    report = world.sync(ONLY, full=True)

    assert report.ok
    assert list(world.copy("vin_candidates")) == [keys[at] for at in sorted(set(returned))]


@pytest.mark.parametrize("status", [400, 501])
def test_where_every_order_is_refused_the_last_refusal_is_told(candidates, status):
    pattern = r"/vin_candidates\?|/vin_candidates "
    candidates.emulator.fault(Fault("status", match=pattern, times=9, status=status))
    candidates.emulator.fault(Fault("status", match="/vin_candidates$", times=9, status=status))

    report = candidates.sync(ONLY)

    assert f"answered {status}" in report.failed[0].error
    assert report.failed[0].requests == 4


def test_a_token_of_another_environment_is_not_sent_there(make_world):
    world = make_world([PRODUCTS])
    insert(world.emulator, "vin_products", [{"vin_name": "A"}])
    world.sync(PRODUCTS_ONLY)
    world.execute("UPDATE _sync_state SET delta_link = 'https://evil.example/x?$deltatoken=1'")

    report = world.sync(PRODUCTS_ONLY)

    assert report.ok
    assert world.state("vin_products", "delta_link").startswith(world.emulator.origin)
