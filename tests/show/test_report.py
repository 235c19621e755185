"""The HTML report: what it says of a database, and that it stays one harmless file."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from run_tables import (
    DAY,
    NIGHT,
    NOW,
    REFUSED,
    add_change,
    add_deleted,
    add_failed,
    add_log,
    add_state,
    add_unfinished,
    writing,
)

from dataverse_sync.errors import ConfigError, StorageError
from dataverse_sync.model import Limit
from dataverse_sync.show.report.data import judge, load_report
from dataverse_sync.show.report.page import (
    CHANGES_SHOWN,
    check_target,
    format_moment,
    format_signed,
    write_report,
)
from dataverse_sync.store import run_lock
from dataverse_sync.store.database import open_target
from dataverse_sync.store.limits import Rights, dump_rights, record_limits
from dataverse_sync.store.proof import Proof, keep_proofs
from dataverse_sync.store.sync_state import DIED

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
        ids = {one.get("id") for _, one in self.elements}
        links = [one.get("href") or "" for _, one in self.elements]
        self.problems += [
            f"{link} leads nowhere" for link in links if link[:1] == "#" and link[1:] not in ids
        ]

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


@pytest.fixture
def page(db_path, tmp_path):
    """Write the report of the database and read it back."""

    def write(now: datetime = NOW) -> Page:
        path = tmp_path / "report.html"
        write_report(db_path, path, now)
        return Page(path.read_text(encoding="utf-8"))

    return write


# A whole environment


def test_synced_database_reported(world, page):
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
    assert "vin_candidates 0 1 0 1" in said.text("deletions")
    assert said.text("runs").count(" completed ") == 2
    assert "None" in said.text("drift")
    assert "failures" not in said.said
    assert said.problems == []


def test_page_holds_no_secrets(world, page, tmp_path):
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


def test_failed_run_told_first(db_path, page):
    with writing(db_path) as connection:
        add_state(connection, "accounts", state="failed", error=REFUSED, last_sync_time=None)
        add_state(connection, "contacts")
        add_failed(connection, run_id="r0", at=NIGHT - DAY)
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


def test_failure_outside_last_run_counts(db_path, page):
    with writing(db_path) as connection:
        add_state(connection, "accounts", state="failed", error=REFUSED)
        add_state(connection, "contacts")
        add_failed(connection, run_id="r0", at=NIGHT - DAY)
        add_log(connection, "r1", "contacts")

    said = page()

    assert said.text("verdict").startswith("The last run completed, but 1 table still fails")
    assert "last success 2026-11-23 02:00, 5 h 40 min before this report" in said.text("failures")


def test_table_not_configured_never_fails(db_path):
    with writing(db_path) as connection:
        for name in ("accounts", "contacts", "products"):
            add_state(connection, name, state="failed", error=REFUSED)
        add_change(connection, "accounts", None, "entity_removed", severity="breaking")
        add_change(connection, "contacts", None, "entity_removed", standing=0)
        add_log(connection, "r1", "others")

    data = load_report(db_path, NOW)

    assert [table.entity.name for table in data.failing] == ["contacts", "products"]
    assert judge(data).text == "The last run completed, but 2 tables still fail"


def test_success_ends_failures(db_path, page):
    with writing(db_path) as connection:
        add_state(connection, "accounts")
        for day, status in enumerate(["failed", "completed"]):
            at = NIGHT - timedelta(days=2 - day)
            add_log(connection, f"r{day}", "accounts", at, status=status, error=None)

    said = page()

    (table,) = load_report(db_path, NOW).tables
    assert table.failures == ()
    assert said.text("verdict").startswith("The last run completed")
    assert "No table fails now. 1 failure in earlier runs" in said.text("failures")


def test_killed_run_shown_as_failed(db_path, page):
    with writing(db_path) as connection:
        add_unfinished(connection)

    said = page()

    assert said.text("verdict").startswith("The last run failed for 1 of 1 table")
    assert "Took unknown" in said.text("verdict")
    assert DIED in said.text("failures")
    assert "in progress" not in said.text()


def test_run_under_way_not_judged(db_path, page):
    with writing(db_path) as connection:
        add_state(connection, "contacts", records_count=5)
        add_log(connection, "r0", "accounts", NIGHT - DAY, counts=(10, 10, 0, 0, 0))
        add_unfinished(connection, records_count=10)
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
    assert data.tables[0].growth == (0, 10)  # what is not counted yet is not taken off


def test_first_run_under_way(db_path, page):
    with writing(db_path) as connection:
        add_unfinished(connection, last_sync_time=None)
        add_state(connection, "contacts", state="pending", last_sync_time=None)

    with run_lock.hold(db_path, NIGHT):
        said = page()

    assert said.text("verdict").startswith("The first run is under way A run is under way since")
    assert "contacts pending 0 never none not read yet" in said.text("tables")
    assert said.problems == []


def test_run_without_reads_mentioned(db_path, page):
    with writing(db_path) as connection:
        add_state(connection, "accounts")
        add_log(connection, "r1", "accounts")

    with run_lock.hold(db_path, NIGHT):
        said = page()

    assert "Another run is starting or ending now." in said.text("verdict")


@pytest.mark.parametrize("kind", ["tables but no rows", "no tables", "an empty file"])
def test_database_without_syncs(db_path, page, kind):
    if kind == "an empty file":
        db_path.touch()
    elif kind == "no tables":
        open_target(db_path).open_writer().close()
    else:
        with writing(db_path):
            pass

    said = page()

    assert said.text("verdict").startswith("Nothing has been synced yet")
    assert said.problems == []
    assert {"tables", "runs", "failures"}.isdisjoint(said.said)


def test_no_charts_before_first_run(db_path, page):
    with writing(db_path) as connection:
        add_state(connection, "accounts", state="pending", last_sync_time=None)

    said = page()

    assert "accounts" in said.text("tables")
    assert {"charts", "growth", "runs"}.isdisjoint(said.said)
    assert said.problems == []


# What the sections say


def test_numbers_have_separators(db_path, page):
    with writing(db_path) as connection:
        add_state(connection, "accounts", records_count=1234567, last_timestamp="2026-11-22T21:14Z")
        add_log(
            connection,
            "r0",
            "accounts",
            NIGHT - DAY,
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


def test_growth_ends_in_current_rows(db_path):
    with writing(db_path) as connection:
        add_state(connection, "accounts", records_count=107)
        add_log(connection, "r0", "accounts", NIGHT - timedelta(days=2), counts=(0, 5, 0, 0, 0))
        add_failed(connection, at=NIGHT - DAY, counts=(0, 1, 0, 0, 0))
        add_log(connection, "r2", "accounts", counts=(0, 4, 9, 9, 3))

    (table,) = load_report(db_path, NOW).tables

    assert table.growth == (100, 105, 106, 107)
    assert (table.is_new, table.grown) == (False, 7)


def test_growth_never_negative(db_path):
    with writing(db_path) as connection:
        add_state(connection, "accounts", records_count=5)
        add_state(connection, "contacts", records_count=5)
        add_log(connection, "r0", "accounts", counts=(0, 9, 0, 0, 0))

    accounts, contacts = load_report(db_path, NOW).tables

    assert accounts.growth == (0, 5)
    assert contacts.growth == (5,)


def test_drift_newest_first(db_path, page):
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


def test_drift_beyond_limit_counted(db_path, page):
    with writing(db_path) as connection:
        add_state(connection, "accounts")
        for number in range(CHANGES_SHOWN + 7):
            add_change(connection, "accounts", f"column{number}")

    said = page().text("drift")

    assert "107 differences; the 100 newest are shown, all are in _schema_changes." in said
    assert "column7 " in said
    assert "column6 " not in said


def test_deletions_counted_by_reason(db_path, page):
    with writing(db_path) as connection:
        add_state(connection, "accounts")
        add_deleted(connection, "accounts", 2)
        add_deleted(connection, "accounts", 3, "unlinked", NIGHT - DAY)
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
        add_failed(connection, HOSTILE, "r0", NIGHT - DAY)
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


def test_nothing_loaded_from_elsewhere(hostile, page, tmp_path):
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


def test_readable_by_screen_reader_and_keyboard(hostile, page):
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
    assert tags.count("caption") == tags.count("table") == 6
    assert all(cell.get("scope") for cell in said.all("th"))
    scrolled = [one for one in said.all("div") if one.get("class") == "scroll"]
    assert len(scrolled) == 6
    assert all(one["tabindex"] == "0" and one["role"] == "region" for one in scrolled)
    for svg in said.all("svg"):
        assert (
            svg.get("aria-hidden") == "true"
            or svg.get("role") == "img"
            or svg.get("class") == "mark"  # inside of one
        )
    assert said.all("html") == [{"lang": "en"}]


def test_failed_runs_marked_by_shape(db_path, page):
    with writing(db_path) as connection:
        add_state(connection, "accounts")
        add_failed(connection, run_id="r0", at=NIGHT - DAY)
        add_log(connection, "r1", "accounts", counts=(9, 3, 4, 0, 2))

    said = page()

    marks = [one for one in said.all("svg") if one.get("class") == "mark"]
    bars = [one["class"] for one in said.all("rect") if one.get("class", "").startswith("duration")]
    assert len(marks) == 3  # above the bar in both charts, and in the key
    assert bars == ["duration failed", "duration", "duration", "duration failed"]
    assert "2026-11-22 02:00 UTC: 41 s, failed" in said.text("charts")
    assert "3 added, 4 updated, 2 deleted" in said.text("charts")


# Writing


def test_older_report_replaced_whole(db_path, tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old" * 100000)
    with writing(db_path):
        pass

    write_report(db_path, path, NOW)

    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert path.read_text(encoding="utf-8").endswith("</html>\n")
    assert sorted(one.name for one in tmp_path.iterdir()) == [db_path.name, path.name]


def test_unwritable_report_names_its_path(db_path, tmp_path, monkeypatch):
    def refuse(*_args: object) -> None:
        raise OSError(30, "Read-only file system")

    with writing(db_path):
        pass
    path = tmp_path / "missing" / "report.html"
    monkeypatch.setattr("dataverse_sync.show.report.page.write_whole", refuse)

    with pytest.raises(StorageError, match="the report cannot be written") as caught:
        write_report(db_path, path, NOW)

    assert str(path) in caught.value.message
    assert "in a folder that can be written" in caught.value.hint


def test_failed_write_keeps_old_report(db_path, tmp_path, monkeypatch):
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
    assert sorted(one.name for one in tmp_path.iterdir()) == [db_path.name, path.name]


def test_database_never_replaced_by_report(db_path, tmp_path):
    with writing(db_path):
        pass
    other = tmp_path / "other.html"
    shutil.copy(db_path, other)
    before = other.read_bytes()

    for path in (db_path, other):
        with pytest.raises(ConfigError, match="is a database, not a place for a report"):
            write_report(db_path, path, NOW)
    with pytest.raises(ConfigError, match="is a database"):
        check_target(tmp_path / "new.db", tmp_path / "new.db")  # before the first sync

    assert other.read_bytes() == before


def test_folder_is_not_a_report(db_path, tmp_path):
    with pytest.raises(ConfigError, match="is a folder, not a place for a report"):
        check_target(tmp_path, db_path)


# What cannot be read


def test_missing_database_is_an_error(db_path, tmp_path):
    with pytest.raises(ConfigError, match="there is no database yet"):
        write_report(db_path, tmp_path / "report.html", NOW)

    assert list(tmp_path.iterdir()) == []


# Words


def test_signs_and_moments():
    assert [format_signed(number) for number in (1204, -3)] == ["+1,204", "\u22123"]
    assert format_moment(NIGHT) == "2026-11-23 02:00"


def test_growth_counts_from_first_load(db_path):
    with writing(db_path) as connection:
        add_state(connection, "accounts", records_count=120)
        add_state(connection, "empty", records_count=0)
        add_log(connection, "r0", "accounts", counts=(0, 100, 0, 0, 0))
        add_log(connection, "r1", "accounts", counts=(0, 20, 0, 0, 0))

    accounts, empty = load_report(db_path, NOW).tables

    assert (accounts.is_new, accounts.sizes, accounts.grown) == (True, (100, 120), 20)
    assert (empty.is_new, empty.sizes, empty.grown) == (False, (0,), 0)


# In a browser, where there is one


@pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no chromium")
def test_phone_scrolls_only_tables(hostile, page, tmp_path):
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


def test_proof_and_its_limits_told(db_path, page):
    known = dump_rights(None, Rights({"unit": 3}, ("pay",)))
    with writing(db_path) as connection:
        add_state(connection, "accounts", records_count=1200, rights=known)
        add_state(connection, "contacts", records_count=3, rights=known)
        add_state(connection, "vin_things", rights=dump_rights(None, Rights()))
        proof = Proof("accounts", 1200, 0, 0, 0, 0, "same", "values of 5 %")
        keep_proofs(connection, "v1", [proof], NIGHT)
        keep_proofs(connection, "v2", [replace(proof, status="differs")], NIGHT + DAY)
        limits = [
            Limit("contacts", None, "depth", "this app may read only <half>"),
            Limit("contacts", "pay", "secured", "a secured column"),
        ]
        record_limits(connection, limits, set(), {"contacts"}, NIGHT)

    said = page()

    text = said.text("proof")
    assert "accounts 1,200 2026-11-23 02:00 5 h 40 min ago values of 5 % nothing is hidden" in text
    assert "contacts 3 never this app may read only <half> pay: a secured column" in text
    assert "vin_things 0 never not all of it can be asked for" in text
    assert said.problems == []
