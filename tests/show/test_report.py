"""The HTML report: what it says of a database, and that it stays one harmless file."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from sqlalchemy import insert

from dataverse_sync.errors import ConfigError, StorageError
from dataverse_sync.model import Counts
from dataverse_sync.moments import to_text
from dataverse_sync.show import report
from dataverse_sync.show.report import (
    Change,
    LogEntry,
    Run,
    draw_changes,
    draw_durations,
    draw_growth,
    find_highest,
    find_step,
    format_duration,
    format_moment,
    format_number,
    format_plural,
    format_signed,
    judge,
    load_report,
    trace_growth,
    write_report,
)
from dataverse_sync.store import run_lock
from dataverse_sync.store.database import open_engine, prepare_own_tables
from dataverse_sync.store.deletions import DELETED
from dataverse_sync.store.schema_lock import SCHEMA_CHANGES
from dataverse_sync.store.sync_state import DIED, LOG, STATE

NOW = datetime(2026, 11, 23, 7, 40, tzinfo=UTC)
NIGHT = datetime(2026, 11, 23, 2, tzinfo=UTC)
REFUSED = "accounts, page 3: the service answered 403"
HOSTILE = "<script>alert(1)</script></style><!--\"'><img src=x onerror=alert(1)>&amp;{{7*7}}"
VOID = {"meta", "link", "wbr", "br", "img", "input", "hr"}
INLINE = {"a", "bdi", "code", "span", "time", "wbr"}


class Page(HTMLParser):
    """A parsed report: its elements, its text by id, and where its tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.problems: list[str] = []
        self.said: dict[str | None, str] = {}
        self._open: list[tuple[str, str | None]] = []
        self.feed(text)
        self.close()
        self.problems += [f"<{tag}> is not closed" for tag, _ in self._open]

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        if len(set(names)) < len(names):
            self.problems.append(f"<{tag}> has an attribute twice: {names}")
        self.elements.append((tag, dict(attrs)))
        if tag not in INLINE:
            self.handle_data(" ")
        if tag not in VOID:
            self._open.append((tag, dict(attrs).get("id")))

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self._open or self._open.pop()[0] != tag:
            self.problems.append(f"</{tag}> closes nothing at {self.getpos()}")

    def handle_data(self, data):
        if any(tag == "style" for tag, _ in self._open):
            return
        for key in {None, *(key for _, key in self._open if key)}:
            self.said[key] = self.said.get(key, "") + data

    def text(self, key: str | None = None) -> str:
        """What a reader reads, of the whole or of the element with this id."""
        return " ".join(self.said.get(key, "").split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@contextmanager
def writing(path):
    engine = open_engine(path)
    with engine.connect() as connection, connection.begin():
        prepare_own_tables(connection)
        yield connection
    engine.dispose()


def add_state(connection, name, **values):
    defaults = {"state": "completed", "records_count": 0, "last_sync_time": to_text(NIGHT)}
    connection.execute(insert(STATE).values(entity_name=name, **{**defaults, **values}))


def add_log(connection, run_id, name, at=NIGHT, seconds=41.0, counts=(0, 0, 0, 0, 0), **values):
    kinds = ("fetched", "added", "updated", "unchanged", "deleted")
    row = {
        "run_id": run_id,
        "entity_name": name,
        "started_at": to_text(at),
        "finished_at": None if seconds is None else to_text(at + timedelta(seconds=seconds)),
        "status": "completed",
        "requests": 2,
        **{f"records_{kind}": count for kind, count in zip(kinds, counts, strict=True)},
        **values,
    }
    connection.execute(insert(LOG).values(row))


def add_change(connection, name, column="rating", change="column_added", **values):
    row = {
        "run_id": "r1",
        "entity_name": name,
        "column_name": column,
        "change": change,
        "severity": "info",
        "new_type": "TEXT",
        "detected_at": to_text(NIGHT),
        **values,
    }
    connection.execute(insert(SCHEMA_CHANGES).values(row))


def add_deleted(connection, name, count, reason="deleted", at=NIGHT):
    for number in range(count):
        row = {"entity_name": name, "record_id": f"{number}", "deleted_at": to_text(at)}
        connection.execute(insert(DELETED).values(**row, reason=reason, json_response="{}"))


def add_failed(connection, name="accounts", run_id="r1", at=NIGHT, **values):
    add_log(connection, run_id, name, at, status="failed", error=REFUSED, **values)


@pytest.fixture
def page(db_path, tmp_path):
    """Write the report of the database and read it back."""

    def write(now: datetime = NOW) -> Page:
        path = tmp_path / "report.html"
        write_report(db_path, path, now)
        return Page(path.read_text(encoding="utf-8"))

    return write


def run(*entries: tuple, at: datetime = NIGHT, run_id: str = "r1") -> Run:
    """A run out of (entity, status, counts, seconds)."""
    return Run(
        run_id,
        tuple(
            LogEntry(
                run_id,
                name,
                at,
                None if seconds is None else at + timedelta(seconds=seconds),
                status,
                counts,
                1,
                None,
            )
            for name, status, counts, seconds in entries
        ),
    )


def runs_of(*seconds: float, added: tuple[int, ...] = ()) -> list[Run]:
    counts = added or (0,) * len(seconds)
    return [
        run(
            ("accounts", "completed", Counts(added=count), took),
            at=NIGHT + timedelta(days=day),
            run_id=f"r{day}",
        )
        for day, (took, count) in enumerate(zip(seconds, counts, strict=True))
    ]


# A whole environment


def test_a_synced_database_is_reported(world, page):
    world.sync()
    world.wait()
    candidate = next(iter(world.emulator.rows("vin_candidates")))
    world.emulator.delete("vin_candidates", candidate)
    world.sync()

    said = page(datetime.now(UTC) + timedelta(hours=26))

    assert "The last run completed" in said.text("verdict")
    assert "before this report" in said.text("verdict")
    assert "5 of 5 completed" in said.text("verdict")
    assert "0 added, 0 updated, 1 deleted" in said.text("verdict")
    for name in ("vin_candidates", "vin_vin_candidate_accountset", "contacts"):
        assert name in said.text("tables")
        assert name in said.text("growth")
    assert "vin_candidates 1 0 0 1" in said.text("deletions") or (
        "vin_candidates 0 1 0 1" in said.text("deletions")
    )
    assert said.text("runs").count(" completed ") == 2
    assert "None" in said.text("drift")
    assert "failures" not in said.said
    assert said.problems == []


def test_secrets_and_links_are_not_in_it(world, page, tmp_path):
    world.sync()
    world.execute("UPDATE _sync_state SET checkpoint = 'skiptoken-1', delta_link = 'delta-2'")

    page()

    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    secret = world.emulator.client_secret
    for at in range(0, len(secret) - 8):
        assert secret[at : at + 8] not in text
    assert "skiptoken-1" not in text
    assert "delta-2" not in text
    assert "eyJ" not in text
    assert "Litware" not in text  # no record is in it
    assert str(tmp_path) not in text  # nor where the file lies
    assert "dataverse.db" in text


# The verdict, and what failed


def test_a_failed_run_says_so_first_and_why(db_path, page):
    with writing(db_path) as connection:
        add_state(connection, "accounts", state="failed", error=REFUSED, last_sync_time=None)
        add_state(connection, "contacts")
        add_failed(connection, run_id="r0", at=NIGHT - timedelta(days=1))
        add_failed(connection)
        add_log(connection, "r1", "contacts")

    said = page()

    assert said.text("verdict").startswith("The last run failed for 1 of 2 tables")
    assert "2026-11-23 02:00 UTC, 5 h 40 min before this report" in said.text("verdict")
    assert f"accounts {REFUSED}" in said.text("failures")
    assert "Failed in 2 runs since 2026-11-22 02:00; it has never completed." in said.text(
        "failures"
    )
    assert "1 failure in earlier runs" in said.text("failures")
    assert said.problems == []


def test_a_failure_that_the_last_run_did_not_touch_still_counts(db_path, page):
    with writing(db_path) as connection:
        add_state(connection, "accounts", state="failed", error=REFUSED)
        add_state(connection, "contacts")
        add_failed(connection, run_id="r0", at=NIGHT - timedelta(days=1))
        add_log(connection, "r1", "contacts")

    said = page()

    assert said.text("verdict").startswith("The last run completed, but 1 table still fails")
    assert "last success 2026-11-23 02:00, 5 h 40 min before this report" in said.text("failures")


def test_a_table_taken_out_of_the_configuration_fails_no_more(db_path):
    with writing(db_path) as connection:
        for name in ("accounts", "contacts", "products"):
            add_state(connection, name, state="failed", error=REFUSED)
        add_change(connection, "accounts", None, "entity_removed", severity="breaking")
        add_change(connection, "contacts", None, "entity_removed", standing=0)
        add_log(connection, "r1", "others")

    data = load_report(db_path, NOW)

    assert [entity.name for entity in data.failing] == ["contacts", "products"]
    assert judge(data).text == "The last run completed, but 2 tables still fail"


def test_a_success_ends_the_row_of_failures(db_path, page):
    with writing(db_path) as connection:
        add_state(connection, "accounts")
        for day, status in enumerate(["failed", "completed"]):
            at = NIGHT - timedelta(days=2 - day)
            add_log(connection, f"r{day}", "accounts", at, status=status, error=None)

    said = page()

    (entity,) = load_report(db_path, NOW).entities
    assert (entity.failures, entity.failing_since) == (0, None)
    assert said.text("verdict").startswith("The last run completed")
    assert "No table fails now. 1 failure in earlier runs" in said.text("failures")


def test_a_killed_run_is_a_failed_one(db_path, page):
    with writing(db_path) as connection:
        add_state(connection, "accounts", state="in_progress")
        add_log(connection, "r1", "accounts", seconds=None, status="in_progress")

    said = page()

    assert said.text("verdict").startswith("The last run failed for 1 of 1 table")
    assert "Took unknown" in said.text("verdict")
    assert DIED in said.text("failures")
    assert "in progress" not in said.text()


def test_a_report_while_a_run_goes_on_is_of_the_run_before(db_path, page):
    with writing(db_path) as connection:
        add_state(connection, "accounts", state="in_progress", records_count=10)
        add_state(connection, "contacts", records_count=5)
        add_log(connection, "r0", "accounts", NIGHT - timedelta(days=1), counts=(10, 10, 0, 0, 0))
        add_log(connection, "r1", "accounts", seconds=None, status="in_progress")
        add_log(connection, "r1", "contacts", counts=(5, 5, 0, 0, 0))

    with run_lock.hold(db_path, NIGHT):
        said = page()
        data = load_report(db_path, NOW)

    assert said.text("verdict").startswith(
        "The last run completed A run is under way since 2026-11-23 02:00 UTC: 1 of 2 tables done."
    )
    assert "2026-11-22 02:00" in said.text("verdict")
    assert "in progress" in said.text("tables")
    assert data.failing == ()
    assert data.entities[0].growth == (0, 10)  # what is not counted yet is not taken off


def test_the_first_run_under_way_is_no_failure(db_path, page):
    with writing(db_path) as connection:
        add_state(connection, "accounts", state="in_progress", last_sync_time=None)
        add_state(connection, "contacts", state="pending", last_sync_time=None)
        add_log(connection, "r1", "accounts", seconds=None, status="in_progress")

    with run_lock.hold(db_path, NIGHT):
        said = page()

    assert said.text("verdict").startswith("The first run is under way A run is under way since")
    assert "contacts pending 0 never none not read yet" in said.text("tables")
    assert said.problems == []


def test_a_run_that_has_not_read_yet_is_mentioned(db_path, page):
    with writing(db_path) as connection:
        add_state(connection, "accounts")
        add_log(connection, "r1", "accounts")

    with run_lock.hold(db_path, NIGHT):
        said = page()

    assert "Another run is starting or ending now." in said.text("verdict")


def test_a_run_that_begins_while_the_report_is_read_is_no_killed_one(db_path, monkeypatch):
    with writing(db_path) as connection:
        add_state(connection, "accounts", state="in_progress")
        add_log(connection, "r1", "accounts", seconds=None, status="in_progress")
    answers = iter([False, True])
    monkeypatch.setattr(run_lock, "is_held", lambda _: next(answers))

    data = load_report(db_path, NOW)

    assert data.running
    assert data.runs[0].status == "in_progress"


@pytest.mark.parametrize("kind", ["tables but no rows", "no tables", "an empty file"])
def test_a_database_that_holds_nothing_yet(db_path, page, kind):
    if kind == "an empty file":
        db_path.touch()
    elif kind == "no tables":
        open_engine(db_path).connect().close()
    else:
        with writing(db_path):
            pass

    said = page()

    assert said.text("verdict").startswith("Nothing has been synced yet")
    assert said.problems == []
    assert {"tables", "runs", "failures"}.isdisjoint(said.said)


def test_pending_tables_without_a_run_have_no_charts(db_path, page):
    with writing(db_path) as connection:
        add_state(connection, "accounts", state="pending", last_sync_time=None)

    said = page()

    assert "accounts" in said.text("tables")
    assert {"charts", "growth", "runs"}.isdisjoint(said.said)
    assert said.problems == []


# What the sections say


def test_numbers_have_separators_and_rows_their_runs(db_path, page):
    with writing(db_path) as connection:
        add_state(connection, "accounts", records_count=1234567, last_timestamp="2026-11-22T21:14Z")
        add_log(
            connection,
            "r0",
            "accounts",
            NIGHT - timedelta(days=1),
            3700.0,
            (1200000,) * 2 + (0,) * 3,
        )
        add_log(connection, "r1", "accounts", counts=(45678, 34569, 1111, 9998, 2), requests=1024)

    said = page()

    assert (
        "accounts completed 1,234,567 2026-11-23 02:00 5 h 40 min ago 2026-11-22T21:14Z "
        "41 s 45,678 34,569 1,111 9,998 2 1,024"
    ) in said.text("tables")
    assert "2026-11-22 02:00 completed 1 h 2 min 1 1,200,000 1,200,000 0 0 0 2" in said.text("runs")
    assert "1,234,567 rows +34,567 since the first load" in said.text("growth")
    assert "1,234,569 rows added, 1,111 updated and 2 deleted in all." in said.text("charts")
    assert "The longest took 1 h 2 min." in said.text("charts")


def test_growth_ends_in_the_rows_that_are_there(db_path):
    with writing(db_path) as connection:
        add_state(connection, "accounts", records_count=107)
        add_log(connection, "r0", "accounts", NIGHT - timedelta(days=2), counts=(0, 5, 0, 0, 0))
        add_failed(connection, at=NIGHT - timedelta(days=1), counts=(0, 1, 0, 0, 0))
        add_log(connection, "r2", "accounts", counts=(0, 4, 9, 9, 3))

    (entity,) = load_report(db_path, NOW).entities

    assert entity.growth == (100, 105, 106, 107)
    assert (entity.is_new, entity.grown) == (False, 7)


def test_growth_never_falls_below_nothing():
    (entry,) = run(("accounts", "completed", Counts(added=9), 1.0)).entries

    assert trace_growth(5, [entry]) == (0, 5)
    assert trace_growth(5, []) == (5,)


def test_only_the_newest_runs_are_read(db_path):
    with writing(db_path) as connection:
        add_state(connection, "accounts")
        add_state(connection, "contacts")
        add_log(connection, "r0", "contacts", NIGHT - timedelta(days=9))
        for day in range(4):
            add_log(connection, f"r{day + 1}", "accounts", NIGHT + timedelta(days=day))

    data = load_report(db_path, NOW, runs=3)

    assert [one.run_id for one in data.runs] == ["r2", "r3", "r4"]
    assert data.entities[1].last.run_id == "r0"  # the last run of a table, however old


def test_drift_is_told_with_the_newest_first(db_path, page):
    with writing(db_path) as connection:
        add_state(connection, "accounts")
        add_change(
            connection, "accounts", "vin_old", "column_removed", old_type="REAL", new_type=None
        )
        add_change(
            connection,
            "accounts",
            "vin_rating",
            "type_changed",
            severity="breaking",
            old_type="INTEGER",
            standing=0,
        )
        add_change(connection, "contacts", None, "entity_added", new_type=None)

    said = page().text("drift")

    assert "3 differences." in said
    assert "contacts \u2013 entity added \u2013 info stands 2026-11-23 02:00" in said
    assert "accounts vin_rating type changed INTEGER to TEXT breaking settled" in said
    assert "accounts vin_old column removed REAL info stands" in said
    assert said.index("contacts") < said.index("vin_rating") < said.index("vin_old")


def test_more_drift_than_a_page_can_hold_is_counted(db_path, page):
    with writing(db_path) as connection:
        add_state(connection, "accounts")
        for number in range(report.CHANGES_SHOWN + 7):
            add_change(connection, "accounts", f"column{number}")

    said = page().text("drift")

    assert "107 differences; the 100 newest are shown, all are in _schema_changes." in said
    assert "column7 " in said
    assert "column6 " not in said


def test_deletions_are_counted_by_reason(db_path, page):
    with writing(db_path) as connection:
        add_state(connection, "accounts")
        add_deleted(connection, "accounts", 2)
        add_deleted(connection, "accounts", 3, "unlinked", NIGHT - timedelta(days=1))
        add_deleted(connection, "contacts", 1, "not_returned")

    said = page().text("deletions")

    assert "accounts 2 0 3 5 2026-11-23 02:00" in said
    assert "contacts 0 1 0 1 2026-11-23 02:00" in said


# One harmless file


@pytest.fixture
def hostile(db_path):
    """A database in which every text is an attack."""
    with writing(db_path) as connection:
        attack = f"{HOSTILE}\n\x00\x1b[31m\x85"
        add_state(connection, HOSTILE, state="failed", error=attack, last_timestamp=HOSTILE)
        add_state(connection, "x_" + HOSTILE, state=HOSTILE)
        add_failed(connection, HOSTILE, "r0", NIGHT - timedelta(days=1))
        add_log(connection, "r1", HOSTILE, status="failed", error=attack)
        add_change(connection, HOSTILE, HOSTILE, HOSTILE, severity=HOSTILE, old_type=HOSTILE)
        add_deleted(connection, HOSTILE, 1, HOSTILE)


def test_hostile_text_stays_text(hostile, page, tmp_path):
    said = page()

    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert said.problems == []
    assert said.all("script") == said.all("img") == []
    assert len(said.all("style")) == 1
    assert not [name for _, one in said.elements for name in one if name.startswith("on")]
    assert "<script" not in text
    assert "alert(1)&gt;" in text
    assert "49" not in said.text("drift")
    for section in ("failures", "tables", "growth", "runs", "drift", "deletions"):
        assert HOSTILE in said.text(section), section
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)


def test_nothing_is_loaded_from_anywhere(hostile, page, tmp_path):
    said = page()

    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", text, re.IGNORECASE)
    for tag, attributes in said.elements:
        for name in ("href", "src", "srcset", "action", "data", "poster", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith("#") or value == "data:,", (tag, value)
    (policy,) = [
        meta["content"] for meta in said.all("meta") if "Content-Security-Policy" in meta.values()
    ]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:;")


def test_it_can_be_read_by_a_screen_reader_and_with_a_keyboard(hostile, page):
    said = page()

    ids = [one["id"] for _, one in said.elements if "id" in one]
    assert len(set(ids)) == len(ids)
    for _, attributes in said.elements:
        for name in ("aria-labelledby", "href"):
            for target in (attributes.get(name) or "").split():
                assert target == "data:," or target.removeprefix("#") in ids, target
    levels = [int(tag[1]) for tag, _ in said.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    tags = [tag for tag, _ in said.elements]
    assert tags.count("main") == tags.count("nav") == 1
    assert tags.count("caption") == tags.count("table") == 5
    assert all(cell.get("scope") for cell in said.all("th"))
    scrolled = [one for one in said.all("div") if one.get("class") == "scroll"]
    assert len(scrolled) == 5
    assert all(one["tabindex"] == "0" and one["role"] == "region" for one in scrolled)
    for svg in said.all("svg"):
        assert (
            svg.get("aria-hidden") == "true"
            or svg.get("role") == "img"
            or svg.get("class") == "mark"  # inside of one
        )
    assert said.all("html") == [{"lang": "en"}]


def test_failed_runs_are_told_by_shape_too(db_path, page):
    with writing(db_path) as connection:
        add_state(connection, "accounts")
        add_failed(connection, run_id="r0", at=NIGHT - timedelta(days=1))
        add_log(connection, "r1", "accounts", counts=(9, 3, 4, 0, 2))

    said = page()

    marks = [one for one in said.all("svg") if one.get("class") == "mark"]
    bars = [one["class"] for one in said.all("rect") if one.get("class", "").startswith("duration")]
    assert len(marks) == 3  # above the bar in both charts, and in the key
    assert bars == ["duration failed", "duration", "duration", "duration failed"]
    assert "2026-11-22 02:00 UTC: 41 s, failed" in said.text("charts")
    assert "3 added, 4 updated, 2 deleted" in said.text("charts")


# Writing


def test_an_older_report_is_replaced_whole(db_path, tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old" * 100000)
    with writing(db_path):
        pass

    write_report(db_path, path, NOW)

    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert path.read_text(encoding="utf-8").endswith("</html>\n")
    assert not list(tmp_path.glob("*.partial"))


def test_a_report_that_cannot_be_written_says_where_to(db_path, tmp_path):
    with writing(db_path):
        pass
    path = tmp_path / "missing" / "report.html"

    with pytest.raises(StorageError, match="the report cannot be written") as caught:
        write_report(db_path, path, NOW)

    assert str(path) in caught.value.message
    assert "in a folder that is there" in caught.value.hint


def test_a_report_that_fails_leaves_the_old_one_and_nothing_else(db_path, tmp_path, monkeypatch):
    with writing(db_path):
        pass
    path = tmp_path / "report.html"
    path.write_text("old")

    def refuse(*_):
        raise OSError

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(StorageError, match=r"cannot be written \(\)"):
        write_report(db_path, path, NOW)

    assert path.read_text() == "old"
    assert not list(tmp_path.glob("*.partial"))


def test_a_report_never_takes_the_place_of_a_database(db_path, tmp_path):
    with writing(db_path):
        pass
    other = tmp_path / "other.html"
    shutil.copy(db_path, other)
    before = other.read_bytes()

    for path in (db_path, other):
        with pytest.raises(ConfigError, match="is a database, not a place for a report"):
            write_report(db_path, path, NOW)
    with pytest.raises(ConfigError, match="is a database"):
        report.check_target(tmp_path / "new.db", tmp_path / "new.db")  # before the first sync

    assert other.read_bytes() == before


# What cannot be read


def test_no_database_is_an_error(db_path, tmp_path):
    with pytest.raises(ConfigError, match="there is no database yet"):
        write_report(db_path, tmp_path / "report.html", NOW)

    assert list(tmp_path.iterdir()) == []


def test_another_program_s_database_is_an_error(db_path):
    engine = open_engine(db_path)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE _sync_state (x)")
    engine.dispose()

    with pytest.raises(ConfigError, match=r"cannot be read \(no such table"):
        load_report(db_path, NOW)


def test_a_moment_that_is_none_is_an_error(db_path):
    with writing(db_path) as connection:
        add_state(connection, "accounts", last_sync_time="yesterday")

    with pytest.raises(ConfigError, match="'yesterday' is no moment"):
        load_report(db_path, NOW)


def test_reading_changes_nothing(db_path):
    with writing(db_path) as connection:
        add_state(connection, "accounts")
        add_log(connection, "r1", "accounts")
    before = db_path.read_bytes()

    load_report(db_path, NOW)

    assert db_path.read_bytes() == before


# Words


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
def test_a_length_of_time_is_told_in_two_units(seconds, text):
    assert format_duration(seconds) == text


def test_numbers_are_told_as_a_person_writes_them():
    assert format_number(1234567) == "1,234,567"
    assert [format_signed(n) for n in (1204, -3, 0)] == ["+1,204", "\u22123", "0"]
    assert [format_plural(n, "run") for n in (0, 1, 2000)] == ["0 runs", "1 run", "2,000 runs"]
    assert format_moment(NIGHT) == "2026-11-23 02:00"
    assert format_moment(NIGHT, seconds=True) == "2026-11-23 02:00:00"


# Charts


def test_bars_stand_on_the_base_and_keep_their_proportions():
    counts = [Counts(added=100), Counts(added=50, updated=25, deleted=25), Counts()]
    chart = draw_changes(
        [
            run(("accounts", "completed", one, 1.0), at=NIGHT + timedelta(days=day))
            for day, one in enumerate(counts)
        ]
    )

    full, half, empty = chart.bars
    assert full.top == half.top
    assert [block.kind for block in half.blocks] == ["added", "updated", "deleted"]
    assert [round(block.height, 1) for block in half.blocks] == [62.0, 31.0, 31.0]
    assert half.blocks[0].y + half.blocks[0].height == report.PLOT_PX
    assert half.blocks[1].y + half.blocks[1].height == half.blocks[0].y
    assert empty.blocks == ()
    assert empty.top == report.PLOT_PX
    assert [tick.text for tick in chart.ticks] == ["0", "50", "100"]
    assert chart.ticks[0].at == 100
    assert not chart.has_cut


def test_a_small_part_is_still_seen():
    chart = draw_changes(runs_of(1, added=(100000,)) + runs_of(1, added=(1,)))

    assert chart.bars[1].blocks[0].height == 1.0


def test_a_first_load_does_not_flatten_what_comes_after_it():
    chart = draw_durations(runs_of(3000, 40, 20, 30))

    assert [bar.cut for bar in chart.bars] == [True, False, False, False]
    assert chart.bars[0].value == "50 min"
    assert chart.bars[0].top < chart.bars[1].top < chart.bars[2].top
    assert [tick.text for tick in chart.ticks] == ["0 s", "10 s", "20 s", "30 s", "40 s"]
    assert chart.has_cut


def test_every_run_has_a_place_of_its_own():
    chart = draw_durations(runs_of(*range(1, 31)))

    edges = [(bar.x, bar.x + bar.width) for bar in chart.bars]
    assert all(left < right for left, right in edges)
    assert all(before[1] < after[0] for before, after in pairwise(edges))
    assert edges[0][0] >= 0
    assert edges[-1][1] <= 100
    assert chart.bars[0].middle == pytest.approx(100 / 60)


def test_one_run_is_a_bar_and_not_a_wall():
    assert draw_durations(runs_of(5)).bars[0].width < 10


def test_there_is_no_chart_of_nothing():
    assert draw_changes([]) is None
    assert draw_durations([run(("accounts", "in_progress", Counts(), None))]) is None


@pytest.mark.parametrize(
    ("values", "highest"),
    [
        ([], 0),
        ([0, 0], 0),
        ([7], 7),
        ([1000, 1], 1000),  # of two, neither is the odd one out
        ([3, 1000, 2, 0], 3),
        ([1000, 900, 3, 2], 3),
        ([10, 4, 3], 10),
        ([1e9, 1e6, 1e3, 1], 1e3),  # two at most
    ],
)
def test_the_scale_leaves_out_what_stands_alone(values, highest):
    assert find_highest(values) == highest


@pytest.mark.parametrize(
    ("highest", "steps", "step"),
    [
        (0, (), 1),
        (3, (), 1),
        (5, (), 2),
        (8.1, (), 5),
        (39, (), 10),
        (41, (), 20),
        (1_234_567, (), 500_000),
        (0.3, (0.1, 0.5), 0.1),
        (1, (0.1, 0.5), 0.5),
        (100, (0.1, 0.5), 50),
    ],
)
def test_lines_stand_at_round_distances(highest, steps, step):
    assert find_step(highest, steps) == step


@pytest.mark.parametrize(
    ("count", "texts", "aligns"),
    [
        (1, ["11-23 02:00"], ["start"]),
        (3, ["11-25 02:00"], ["middle"]),
        (5, ["11-23 02:00", "11-27 02:00"], ["start", "middle"]),
        (30, ["11-23 02:00", "12-07 02:00", "12-22 02:00"], ["start", "middle", "end"]),
    ],
)
def test_dates_stand_where_they_do_not_touch(count, texts, aligns):
    chart = draw_durations(runs_of(*[1.0] * count))

    assert [label.text for label in chart.dates] == texts
    assert [label.align for label in chart.dates] == aligns


def test_a_line_of_growth_fills_its_box():
    spark = draw_growth((100, 150, 200))

    assert spark.points == "0,25 50,14 100,3"
    assert spark.area == "0,28 0,25 50,14 100,3 100,28"
    assert draw_growth((7, 7)).points == "0,14 100,14"
    assert draw_growth((7,)).points == "0,14 1,14" or draw_growth((7,)).points == "0,14 100,14"


def test_a_first_load_is_left_out_of_the_growth(db_path):
    with writing(db_path) as connection:
        add_state(connection, "accounts", records_count=120)
        add_state(connection, "empty", records_count=0)
        add_log(connection, "r0", "accounts", counts=(0, 100, 0, 0, 0))
        add_log(connection, "r1", "accounts", counts=(0, 20, 0, 0, 0))

    accounts, empty = load_report(db_path, NOW).entities

    assert (accounts.is_new, accounts.sizes, accounts.grown) == (True, (100, 120), 20)
    assert (empty.is_new, empty.sizes, empty.grown) == (False, (0,), 0)


def test_a_run_is_as_long_as_its_slowest_table():
    one = run(("a", "completed", Counts(), 4.0), ("b", "failed", Counts(), 9.0))

    assert (one.duration_s, one.status, one.completed) == (9.0, "failed", 1)
    assert replace(one, entries=one.entries[:1]).status == "completed"
    backwards = run(("a", "completed", Counts(), -5.0))  # the clock was set back
    assert backwards.duration_s == 0.0


def test_changes_are_what_the_database_says(db_path):
    with writing(db_path) as connection:
        add_state(connection, "accounts")
        add_change(connection, "accounts", old_type="REAL", severity="breaking", standing=0)

    assert load_report(db_path, NOW).changes == (
        Change("accounts", "rating", "column_added", "breaking", "REAL", "TEXT", NIGHT, False),
    )


# In a browser, where there is one


@pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no chromium")
def test_a_phone_scrolls_tables_and_not_the_page(hostile, page, tmp_path):
    said = page()
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert said.problems == []
    outer = tmp_path / "outer.html"
    outer.write_text(
        f'<iframe width="390" height="800" srcdoc="{html.escape(text)}"></iframe>'
        "<script>onload = () => { const inner = frames[0].document;"
        "document.title = inner.documentElement.scrollWidth + ' '"
        "+ inner.querySelectorAll('script, img').length + ' '"
        "+ (inner.querySelector('#tables .scroll').scrollWidth > 390); }</script>",
        encoding="utf-8",
    )

    done = subprocess.run(
        [
            "chromium",
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--hide-scrollbars",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
            outer.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )

    assert "<title>390 0 true</title>" in done.stdout
