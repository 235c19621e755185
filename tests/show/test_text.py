"""Plain text for people: tables, counts, durations, sizes, and the summary of a run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dataverse_sync.model import Counts, Drift, EntityReport, SyncReport
from dataverse_sync.show.text import (
    format_age,
    format_clock,
    format_count,
    format_duration,
    format_result,
    format_size,
    format_summary,
    format_table,
)

BEGAN = datetime(2024, 5, 1, 10, tzinfo=UTC)
ACCOUNTS = EntityReport("accounts", "completed", Counts(12, 3, 4, 5, 1), 2, 1.26)
CONTACTS = EntityReport("contacts", "failed", Counts(7, 7), 30, 61.0, "contacts, page 2: refused")
TEAMS = EntityReport("teams", "pending")


def report(*entities: EntityReport, **more: Any) -> SyncReport:
    finished = BEGAN + timedelta(seconds=62.34)
    return SyncReport("run-1", BEGAN, finished, entities, **more)


def test_table_aligns_numbers_right():
    lines = format_table(("name", "rows", "state"), [("accounts", "5", "ok"), ("a", "1200", "no")])

    assert lines == [
        "name      rows  state",
        "accounts     5  ok",
        "a         1200  no",
    ]


def test_table_aligns_times_as_numbers():
    lines = format_table(
        ("name", "rows", "age", "bookmark", "contact", "share"),
        [
            ("accounts", "1,200", "26 h", "2024-01-01T00:00:00Z", "Nancy", "1.5 %"),
            ("7", "5", "never", "-", "-", "-"),
        ],
    )

    assert lines == [
        "name       rows    age  bookmark              contact  share",
        "accounts  1,200   26 h  2024-01-01T00:00:00Z  Nancy    1.5 %",
        "7             5  never  -                     -            -",
    ]


def test_table_without_rows():
    assert format_table(("name", "rows"), []) == ["name  rows"]


def test_count_with_its_noun():
    assert [format_count(number, "run") for number in (0, 1, 2000)] == [
        "0 runs",
        "1 run",
        "2,000 runs",
    ]


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (2_340_000, "2.3 MB"),
        (1.5e12, "1,500.0 GB"),
    ],
)
def test_size_in_largest_unit(size, text):
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.04, "0 s"),
        (0.44, "0.4 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h"),
        (93600, "26 h"),
        (99000, "27 h 30 min"),
        (172800, "2 d"),
        (190000, "2 d 5 h"),
        (90_000_000, "1,041 d 16 h"),
    ],
)
def test_duration_in_two_units(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "never"), (45, "45 s"), (720, "12 min"), (93600, "26 h"), (259200, "3 d")],
)
def test_age_in_one_unit(seconds, text):
    assert format_age(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(7.9, "0:07"), (720, "12:00"), (11045, "3:04:05")])
def test_duration_as_clock(seconds, text):
    assert format_clock(seconds) == text


def test_result_in_one_line():
    line = format_result(report(ACCOUNTS, requests=9, bytes_read=1_250_000))

    assert line == (
        "1 of 1 entities completed: 12 fetched, 3 added, 4 updated, 5 unchanged, 1 deleted, "
        "9 requests, 1.2 MB in 62.3 s"
    )


def test_result_counts_failed_and_pending():
    line = format_result(report(ACCOUNTS, CONTACTS, TEAMS))

    assert line.startswith("1 of 3 entities completed, 1 pending, 1 failed: 19 fetched, 10 added")


def test_summary_has_table_and_result():
    lines = format_summary(report(ACCOUNTS, TEAMS))

    assert lines == [
        "entity    fetched  added  updated  unchanged  deleted  requests  seconds  state",
        "accounts       12      3        4          5        1         2      1.3  completed",
        "teams           0      0        0          0        0         0      0.0  pending",
        "",
        format_result(report(ACCOUNTS, TEAMS)),
    ]


def test_summary_says_why_entity_failed():
    lines = format_summary(report(ACCOUNTS, CONTACTS))

    assert lines[-1] == "Failed: contacts, page 2: refused"


def test_summary_says_how_long_throttled():
    lines = format_summary(report(ACCOUNTS, waited_s=90.4))

    assert lines[-1] == "Waited 90 s because the service was busy (429)."


def test_summary_counts_drift():
    drift = (
        Drift("accounts", "column_added", "fresh", None, "TEXT"),
        Drift("accounts", "column_removed", "gone", "TEXT", None),
        Drift("contacts", "type_changed", "number", "TEXT", "INTEGER"),
    )

    lines = format_summary(report(ACCOUNTS, drift=drift))

    assert "3" in lines[-1]
    assert "2 breaking" in lines[-1]
    assert "schema diff" in lines[-1]


def test_summary_counts_one_difference():
    drift = (Drift("accounts", "column_added", "fresh", None, "TEXT"),)

    lines = format_summary(report(ACCOUNTS, drift=drift))

    assert lines[-1].startswith("Schema drift: 1 difference, 0 breaking.")


def test_summary_notes_before_failures():
    lines = format_summary(report(CONTACTS, notes={"contacts": "the key was guessed"}))

    assert lines[-2:] == [
        "Note: contacts: the key was guessed",
        "Failed: contacts, page 2: refused",
    ]
