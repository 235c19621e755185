"""A page of records becomes rows and counts, whatever was expected of it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from unittest.mock import patch

import pytest
from conftest import raw
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataverse_sync.errors import PageError
from dataverse_sync.model import Column, Counts, Entity, Page, PageRequest
from dataverse_sync.moments import parse_timestamp
from dataverse_sync.store import upsert
from dataverse_sync.store.tables import build_table
from dataverse_sync.store.upsert import newest_of
from dataverse_sync.sync.reading import EntityReader
from dataverse_sync.sync.storing import Storing

MOMENTS = ["2024-01-01T00:00:00Z", "2024-01-01T00:00:00.5Z", "2024-01-01T02:00:00+02:00", "2023"]


@given(st.lists(st.sampled_from([*MOMENTS, "2024-02-30T00:00:00Z", "soon", None, 7, ""])))
def test_newest_is_latest_moment(values):
    newest = newest_of(values)

    moments = [parse_timestamp(value) for value in values if parse_timestamp(value)]
    assert parse_timestamp(newest) == max(moments, default=None)
    assert newest is None or newest in values


def test_newest_of_equal_moments_is_first_text():
    texts = [f"2024-01-01T{hour:02}:00:00+{hour:02}:00" for hour in range(14)]

    for at in range(14):
        assert newest_of(texts[at:]) == texts[at]


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


def storing_over(connection) -> Storing:
    reader = EntityReader(THINGS.entity, "https://x/")
    return Storing(connection, THINGS, reader, 1, lambda: datetime(2026, 11, 23, tzinfo=UTC))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(there=RECORDS, coming=RECORDS, at_once=st.integers(1, 5))
def test_expectation_changes_no_result(connection, there, coming, at_once):
    outcomes = []

    for expect in ("changed", "same", "new"):
        THINGS.table.drop(connection, checkfirst=True)
        THINGS.table.create(connection)
        storing_over(connection).write(page_of(there))
        storing = storing_over(connection)
        with patch.object(upsert, "ROWS_PER_CALL", at_once):
            written = storing.write(page_of(coming), expected=expect)
        rows = connection.exec_driver_sql("SELECT * FROM things ORDER BY thingid").all()
        outcomes.append((sorted(written.keys), written.newest, storing.counts, rows))

    assert outcomes[1] == outcomes[0]
    assert outcomes[2] == outcomes[0]


def test_unusable_record_leaves_its_page_unwritten(connection):
    THINGS.table.create(connection)
    storing = storing_over(connection)
    good = page_of([("a", 1), ("b", 2)])

    for expect in ("changed", "same", "new"):
        with pytest.raises(PageError, match="has no thingid"):
            storing.write(
                replace(good, records=(*good.records, raw('{"size": 3}'))), expected=expect
            )

    assert connection.exec_driver_sql("SELECT count(*) FROM things").scalar() == 0
    assert storing.counts == Counts()


@pytest.mark.parametrize("member", ["thingid", "modifiedon", "text"])
@pytest.mark.parametrize("expect", ["changed", "same", "new"])
def test_invalid_utf8_never_equals_stored_record(connection, member, expect):
    THINGS.table.create(connection)
    values = {"thingid": "a", "modifiedon": MOMENTS[0], "text": "x", member: "\ufffd"}
    stored = json.dumps(values, ensure_ascii=False).encode()
    storing_over(connection).write(replace(page_of([]), records=(raw(stored),)))
    broken = raw(stored.replace("\ufffd".encode(), b"\xff"))

    with pytest.raises(PageError, match="not UTF-8"):
        storing_over(connection).write(replace(page_of([]), records=(broken,)), expected=expect)


def test_row_changed_by_hand_is_mended(connection):
    page = page_of([("a", 1), ("b", 2), ("c", 3)])
    THINGS.table.create(connection)
    storing_over(connection).write(page)
    rows = "SELECT thingid, json_response FROM things ORDER BY thingid"
    before = connection.exec_driver_sql(rows).all()
    other = "SELECT json_response FROM things WHERE thingid = 'b'"
    connection.exec_driver_sql(f"UPDATE things SET json_response = ({other}) WHERE thingid = 'c'")
    connection.exec_driver_sql("UPDATE things SET thingid = 'A' WHERE thingid = 'a'")

    storing_over(connection).write(page, expected="same")

    after = connection.exec_driver_sql(rows).all()
    assert after == [("A", before[0][1]), *before]
