"""What a run did, in plain text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from dataverse_sync.model import Counts, Drift, EntityReport, SyncReport
from dataverse_sync.show.text import format_result, format_summary, format_table

BEGAN = datetime(2024, 5, 1, 10, tzinfo=UTC)
ACCOUNTS = EntityReport("accounts", "completed", Counts(12, 3, 4, 5, 1), 2, 1.26)
CONTACTS = EntityReport("contacts", "failed", Counts(7, 7), 30, 61.0, "contacts, page 2: refused")
TEAMS = EntityReport("teams", "pending")


def report(*entities: EntityReport, **more: Any) -> SyncReport:
    finished = BEGAN + timedelta(seconds=62.34)
    return SyncReport("run-1", BEGAN, finished, entities, **more)


def test_a_table_has_its_words_to_the_left_and_its_numbers_to_the_right():
    lines = format_table(("name", "rows", "state"), [("accounts", "5", "ok"), ("a", "1200", "no")])

    assert lines == [
        "name      rows  state",
        "accounts     5  ok",
        "a         1200  no",
    ]


def test_words_stand_to_the_left_and_times_with_the_numbers():
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


def test_a_table_without_rows_has_its_heads():
    assert format_table(("name", "rows"), []) == ["name  rows"]


def test_a_run_is_told_in_one_line():
    line = format_result(report(ACCOUNTS, requests=9, bytes_read=1_250_000))

    assert line == (
        "1 of 1 entities completed: 12 fetched, 3 added, 4 updated, 5 unchanged, 1 deleted, "
        "9 requests, 1.2 MB in 62.3 s"
    )


def test_what_failed_or_was_not_reached_is_in_that_line():
    line = format_result(report(ACCOUNTS, CONTACTS, TEAMS))

    assert line.startswith("1 of 3 entities completed, 1 pending, 1 failed: 19 fetched, 10 added")


def test_a_summary_is_a_table_and_the_result():
    lines = format_summary(report(ACCOUNTS, TEAMS))

    assert lines == [
        "entity    fetched  added  updated  unchanged  deleted  requests  seconds  state",
        "accounts       12      3        4          5        1         2      1.3  completed",
        "teams           0      0        0          0        0         0      0.0  pending",
        "",
        format_result(report(ACCOUNTS, TEAMS)),
    ]


def test_a_summary_says_why_an_entity_failed():
    lines = format_summary(report(ACCOUNTS, CONTACTS))

    assert lines[-1] == "Failed: contacts, page 2: refused"


def test_a_summary_says_how_long_the_service_was_busy():
    lines = format_summary(report(ACCOUNTS, waited_s=90.4))

    assert lines[-1] == "Waited 90 s because the service was busy (429)."


def test_a_summary_counts_drift_and_says_where_to_look():
    drift = (
        Drift("accounts", "column_added", "fresh", None, "TEXT"),
        Drift("accounts", "column_removed", "gone", "TEXT", None),
        Drift("contacts", "type_changed", "number", "TEXT", "INTEGER"),
    )

    lines = format_summary(report(ACCOUNTS, drift=drift))

    assert "3" in lines[-1]
    assert "2 breaking" in lines[-1]
    assert "schema diff" in lines[-1]


def test_one_difference_is_not_several():
    drift = (Drift("accounts", "column_added", "fresh", None, "TEXT"),)

    lines = format_summary(report(ACCOUNTS, drift=drift))

    assert lines[-1].startswith("Schema drift: 1 difference, 0 breaking.")


def test_a_summary_ends_with_notes_before_failures():
    lines = format_summary(report(CONTACTS, notes={"contacts": "the key was guessed"}))

    assert lines[-2:] == [
        "Note: contacts: the key was guessed",
        "Failed: contacts, page 2: refused",
    ]
