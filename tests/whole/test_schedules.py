"""The copy stays correct under random schedules of changes, killed runs and faults.

Each seed is one schedule: tables, changes between any two requests, runs that end
well or not. After every run that ended well, each record must be stored as the
service had it at some moment of that run; after the changes stop, one more run
must equal the service. ``python scripts/schedules.py`` plays many more.

One seed alone, with the log of its runs: ``python scripts/schedules.py --seeds 7 -v``.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from model_server import API, Killed, ModelServer, Moods, Table, Version, make_ids

from dataverse_sync import Config, SyncReport, run_sync
from dataverse_sync.model import Event, PageStored

pytestmark = pytest.mark.slow

SEEDS = 20  # on each change; scripts/schedules.py plays as many as are wanted
CHUNK = 10
TWO_MINUTES = timedelta(minutes=2)


def play(seed: int, folder: Path) -> None:
    """Play one schedule; raises AssertionError if the copy is wrong."""
    rng = Random(seed)
    server = ModelServer(rng, make_tables(rng), page_size=rng.randint(1, 4))
    mirror = Mirror(server, rng, folder)
    server.live(rng.choice((0, 20, 60)))
    limited = rng.choice((0, 0, 1, min(2, len(server.tables))))
    for name in rng.sample(list(server.tables), limited):
        server.limit(name)
    for _ in range(rng.randint(1, 5)):
        if rng.random() < 0.15:
            server.refuse_more()
        if rng.random() < 0.08:
            server.restore()
        server.moods = Moods(
            change=rng.choice((0.1, 0.3, 0.7)),
            late=rng.choice((0.0, 0.3, 0.8)),
            fault=rng.choice((0.0, 0.0, 0.02)),
            kill=rng.choice((0.0, 0.0, 0.1, 0.2)),
            hide=rng.choice((0.0, 0.3)),
            repeat=rng.choice((0.0, 0.0, 0.05, 0.4)),
        )
        mirror.sync(partial=rng.random() < 0.1, full=rng.random() < 0.1)
        if rng.random() < 0.15:
            mirror.sync_with_less(rng.choice(list(server.tables)))
        for name in sorted(server.limited):
            if rng.random() < 0.5:
                server.lift(name)
        server.live(rng.choice((0, 1, 3, 10)))
        server.now += rng.choice((0.5, 40, 130, 900)) * rng.random()
    for name in sorted(server.limited):
        server.lift(name)
    server.rest()
    is_settled = rng.random() < 0.7
    server.now += 130.0 if is_settled else rng.choice((0.0, 5.0, 100.0))
    mirror.make_comparisons_due()
    went_on = mirror.is_unfinished
    mirror.sync()
    mirror.check_equal(went_on)
    if went_on:  # a read that is taken up keeps the bookmark of its beginning
        mirror.sync()
        mirror.check_equal()
    mirror.check_no_work_twice(is_settled)


def make_tables(rng: Random) -> list[Table]:
    """Make tables of each kind of incremental read, some of them very small."""
    linked = rng.random() < 0.75

    def table(name: str, lookups: Mapping[str, Sequence[str]], **about: Any) -> Table:
        sizes = (4, 8, 10) if about.get("filtered") else (1, 1, 3, 8)
        ids = make_ids(rng, rng.choice(sizes))
        return Table(name, name[:-1], ids, lookups if linked else {}, **about)

    def maybe() -> bool:
        return rng.random() < 0.6

    things = table("things", {"_account_value": ["accounts"]}, tracked=True)
    others = [
        table("notes", {"_about_value": ["contacts"]}, versioned=maybe()),
        table("kinds", {}, dated=False, versioned=maybe()),
        table("events", {}, keeps_deleted=True, tracked=maybe()),
    ]
    tables = [things, *rng.sample(others, rng.randint(0, 2))]
    if linked:
        customer = {"_parentcustomerid_value": ["accounts", "contacts"]}
        contact = {"_primarycontactid_value": ["contacts"]}
        tables += [
            table("links", {}, keys_of=("accountid",), dated=False, versioned=maybe()),
            table("accounts", contact, filtered=True, versioned=maybe()),
            table("contacts", customer, filtered=True, tracked=maybe()),
        ]
    rng.shuffle(tables)
    return tables


@dataclass
class Mirror:
    """The copy, with the checks that hold after each run."""

    server: ModelServer
    rng: Random
    folder: Path
    is_unfinished: bool = False  # the last run was killed, or an entity failed
    rows: dict[str, dict[str, str]] = field(default_factory=dict)  # table → id → json_response
    bookmarks: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)  # table → where its read must go on
    stored: Counter[str] = field(default_factory=Counter)  # pages that this run has committed

    def __post_init__(self) -> None:
        self.database = self.folder / "mirror.db"
        self.workers = self.rng.choice((1, 1, 3))
        self.config = Config(
            api_url=API,
            client_id="model",
            client_secret="model",
            sqlite_db_path=self.database,
            schema_path=self.folder / "schema.json",
            workers=self.workers,
        )

    def sync(self, partial: bool = False, full: bool = False) -> SyncReport | None:
        """Run a sync; check the copy however the run ended."""
        server, rng = self.server, self.rng
        names = list(server.tables)
        partial = partial and len(names) > 1
        only = rng.sample(names, rng.randint(1, len(names) - 1)) if partial else []
        entities = [table.config for table in server.tables.values()]
        position, went_on, before = server.position, self.is_unfinished, self.rows
        report: SyncReport | None = None
        self.stored.clear()
        pages, ids = rng.choice((1, 2, 10)), rng.choice((1, 3, 50))
        with (
            server.in_place(self.workers, pages_per_transaction=pages, ids=ids),
            suppress(KeyboardInterrupt, Killed),
        ):
            report = run_sync(
                self.config,
                entities,
                only=only,
                full=full,
                labels=False,
                on_event=self._count_stored,
            )
        if not (
            server.refused or server.heaviest or server.was_restored or server.were_limited
        ):  # else it may begin again
            self._check_went_on(report, full)
        self.is_unfinished = report is None or not report.ok or (went_on and partial)
        if not self.database.exists():
            assert report is None
            return None
        with closing(sqlite3.connect(self.database)) as connection:
            connection.row_factory = sqlite3.Row
            self._look(connection, report, bool(only))
        if report is not None:
            assert server.held == 0, "pages were not released"
            well = {entity.name for entity in report.entities if entity.state == "completed"}
            well -= server.limited
            if partial or not report.ok:  # what is not linked to stays, and is not asked for
                well -= {table.name for table in server.tables.values() if table.filtered}
            self._check_moments(position, well, went_on, before)
            if report.ok and not partial and not server.limited:
                self._check_reachable(position)
        return report

    def sync_with_less(self, name: str) -> None:
        """Run a sync while the app may see less of a table: its rows stay as they are."""
        server = self.server
        if server.limited or not self._is_copied_whole(name):
            return
        before = self.rows.get(name)
        server.limit(name)
        report = self.sync(full=self.rng.random() < 0.3)
        server.lift(name)
        assert self.rows.get(name) == before, f"{name}: changed, though less of it may be seen"
        assert report is None or name in {entity.name for entity in report.failed}

    def _is_copied_whole(self, name: str) -> bool:
        """Whether it was recorded that the app might see all of a table."""
        if not self.database.exists():
            return False
        query = "SELECT rights FROM _sync_state WHERE entity_name = ?"
        with closing(sqlite3.connect(self.database)) as connection:
            (found,) = connection.execute(query, (name,)).fetchone() or (None,)
        return found == '{"depths":{"unit":3},"hidden":[]}'

    def _count_stored(self, event: Event) -> None:
        if isinstance(event, PageStored):
            self.stored[event.entity] += 1

    # After every run

    def _check_went_on(self, report: SyncReport | None, full: bool) -> None:
        """Check that an unfinished read resumes after its last committed page."""
        reports = () if report is None else report.entities
        completed = {entity.name for entity in reports if entity.state == "completed"}
        for table in self.server.tables.values():
            name, link = table.name, self.links.get(table.name)
            url = self.server.first_urls.get(name, link)
            assert full or link is None or url == link, f"{name}: asked for {url}, not {link}"
            pages = [asked for asked in self.server.asked if asked.table == name]
            if name in completed:
                self.links.pop(name, None)
            elif self.stored[name] and not table.filtered:
                self.links.pop(name, None)
                if (goes_on := pages[self.stored[name] - 1].goes_on) is not None:
                    self.links[name] = goes_on

    def _look(
        self, connection: sqlite3.Connection, report: SyncReport | None, is_partial: bool
    ) -> None:
        """Read the copy; check its columns, bookmarks and removed rows."""
        before, self.rows = self.rows, {}
        there = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
        for table in self.server.tables.values():
            if table.name not in there:
                self.rows[table.name] = {}
                continue
            rows = connection.execute(f"SELECT * FROM {table.name}").fetchall()
            for row in rows:
                check_columns(table, row)
            self.rows[table.name] = {row[table.key]: row["json_response"] for row in rows}
        self._check_removed(connection, before, report, is_partial)
        self._check_states(connection, report)

    def _check_removed(
        self,
        connection: sqlite3.Connection,
        before: Mapping[str, Mapping[str, str]],
        report: SyncReport | None,
        is_partial: bool,
    ) -> None:
        if not before:
            return
        query = "SELECT * FROM _sync_deleted WHERE id > ?"
        removed = connection.execute(query, (self._last_removed,)).fetchall()
        kept = {(row["entity_name"], row["record_id"]) for row in removed}
        for name, rows in before.items():
            for record_id in rows.keys() - self.rows[name].keys():
                assert (name, record_id) in kept, f"{name} {record_id}: removed, and not kept"
        for row in removed:
            self._last_removed = row["id"]
            table = self.server.tables[row["entity_name"]]
            versions = self.server.history(table.name, row["record_id"])
            texts = [text for version in versions for text in self.server.texts_of(table, version)]
            assert row["json_response"] in texts, f"{table.name}: kept as it never was"
            assert not table.keeps_deleted, f"{table.name}: nothing may be removed"
            assert row["reason"] in allowed_reasons(table, is_partial), (
                f"{table.name}: {tuple(row)}"
            )
            if row["reason"] != "unlinked" and not self.server.were_limited:
                assert None in texts, f"{table.name} {row['record_id']}: it was never deleted"
        if report is not None:
            assert len(removed) == report.totals.deleted

    _last_removed = 0

    def _check_states(self, connection: sqlite3.Connection, report: SyncReport | None) -> None:
        for row in connection.execute("SELECT * FROM _sync_state"):
            name = row["entity_name"]
            asked_at = self.server.first_asked_at.get(name)
            bookmark = row["last_timestamp"]
            if bookmark and asked_at and bookmark != self.bookmarks.get(name):
                assert datetime.fromisoformat(bookmark) <= asked_at - TWO_MINUTES, (
                    f"{name}: the bookmark {bookmark} passes the first request at {asked_at}"
                )
            self.bookmarks[name] = bookmark
            if report is not None and name in {entity.name for entity in report.entities}:
                assert row["records_count"] == len(self.rows[name])

    # After every run that ended well

    def _check_moments(
        self,
        position: int,
        names: Iterable[str],
        went_on: bool,
        before: Mapping[str, Mapping[str, str]],
    ) -> None:
        """Check that each row was in the service at some moment of the run, and none is missing."""
        for table in (self.server.tables[name] for name in names):
            if server_forgot(self.server, table) or (went_on and not table.shows_change):
                continue  # what changed behind a read that is taken up is found by the next
            for record_id in table.ids:
                stored = self.rows[table.name].get(record_id)
                states = self._states(table, record_id, position)
                texts = [state and state.text for state in states]
                if stored is None:
                    fits = table.filtered or None in texts
                    if table.name in self.server.counts_pages:
                        # The service left it out; but what was there is not taken as gone.
                        fits |= record_id not in before.get(table.name, {})
                else:
                    fits = stored in texts or (table.keeps_deleted and None in texts)
                assert fits, (
                    f"{table.name} {record_id}: stored as {stored}, "
                    f"while the service had {' then '.join(map(str, texts))}"
                )

    def _states(self, table: Table, record_id: str, position: int) -> list[Version | None]:
        """Return the states allowed for a row after a run that began at this position."""
        states = self.server.seen_since(table.name, record_id, position)
        history = self.server.history(table.name, record_id)
        is_silent = any(version.is_silent for version in history)  # compared within a week
        if table.tracked and (len(states) > 1 or is_silent):
            # The delta may have left it to the next one, with whatever was stored: because it is
            # bounded, or because the record went from its last pages to its first ones meanwhile.
            states = self.server.seen_since(table.name, record_id, 0)
        return states

    def _check_reachable(self, position: int) -> None:
        """Check that records always linked to are present, and those never linked to absent."""
        server = self.server
        always: dict[tuple[str, str], list[Version]] = {}
        ever: dict[tuple[str, str], list[Version]] = {}
        for table in server.tables.values():
            for record_id in table.ids:
                states = self._states(table, record_id, position)
                versions = [state for state in states if state is not None]
                if versions:
                    ever[table.name, record_id] = versions
                was_read = table.filtered or record_id in self.rows[table.name]
                if len(states) == 1 and versions and was_read:
                    always[table.name, record_id] = versions
        stored = {
            (table.name, record_id)
            for table in server.tables.values()
            if table.filtered
            for record_id in self.rows[table.name]
        }
        missing = reach(server, always) - stored
        assert not missing, f"linked to, and not stored: {missing}"
        stray = stored - reach(server, ever)
        assert not stray, f"stored, and not linked to: {stray}"

    # After the last

    def check_equal(self, went_on: bool = False) -> None:
        """Check that tables equal the service, and filtered ones its linked records."""
        server = self.server
        there = {
            (name, record_id): [version]
            for name in server.tables
            for record_id, version in server.committed(name).items()
        }
        linked = reach(server, there)
        for table in server.tables.values():
            expected = {
                record_id: version.text
                for record_id, version in server.committed(table.name).items()
                if not table.filtered or (table.name, record_id) in linked
            }
            stored: dict[str, str] = self.rows[table.name]
            if server_forgot(server, table) or (went_on and not table.shows_change):
                continue
            if table.keeps_deleted:
                stored = {key: text for key, text in stored.items() if key in expected}
            assert stored == expected, f"{table.name} is not what the service has"

    def check_no_work_twice(self, is_settled: bool) -> None:
        """Check that one more run reads no record and writes no row."""
        before = self._dump()
        report = self.sync()
        assert report is not None
        assert self._dump() == before, "rows were written, though nothing had changed"
        totals = report.totals
        assert (totals.added, totals.updated, totals.deleted) == (0, 0, 0)
        # A token from before a backup was restored tells of it when it is used for the first time.
        reads_whole = self.server.may_read_whole or self.server.was_restored
        if is_settled and not reads_whole:
            read = [asked for asked in self.server.asked if asked.whole and asked.records]
            read = [asked for asked in read if self.server.tables[asked.table].dated]
            assert not read, f"records were read, though nothing had changed: {read}"

    def make_comparisons_due(self) -> None:
        """Let a week pass: change tracking does not tell that access ended, or of a backup."""
        if self.database.exists():
            with closing(sqlite3.connect(self.database)) as connection, connection:
                connection.execute("UPDATE _sync_state SET compared_at = '2026-01-01T00:00:00Z'")

    def _dump(self) -> Mapping[str, Sequence[tuple[object, ...]]]:
        with closing(sqlite3.connect(self.database)) as connection:
            return {
                name: connection.execute(f"SELECT * FROM {name} ORDER BY 1").fetchall()
                for name in self.server.tables
            }


def server_forgot(server: ModelServer, table: Table) -> bool:
    """Whether a restored backup took back what nothing shows of a table that keeps its rows."""
    return server.was_restored and table.keeps_deleted


def check_columns(table: Table, row: sqlite3.Row) -> None:
    """Check that the columns of a row equal its JSON."""
    record = json.loads(row["json_response"])
    special = {"json_response", "sync_time", "valid_from"}
    columns = {name: value for name, value in dict(row).items() if name not in special}
    said = {name: value for name, value in record.items() if "@" not in name}
    assert columns == said, f"{table.name}: the columns {columns} do not agree with {said}"
    assert row["valid_from"] == record.get("modifiedon")
    assert row["sync_time"].endswith("Z")


def allowed_reasons(table: Table, is_partial: bool) -> set[str]:
    if table.filtered:
        return {"not_returned"} if is_partial else {"not_returned", "unlinked"}
    return {"deleted", "not_returned"} if table.tracked else {"not_returned"}


def reach(
    server: ModelServer, records: Mapping[tuple[str, str], Sequence[Version]]
) -> set[tuple[str, str]]:
    """Return the filtered records that unfiltered ones link to, directly or through each other."""
    waiting = [place for place in records if not server.tables[place[0]].filtered]
    reached: set[tuple[str, str]] = set()
    while waiting:
        name, record_id = waiting.pop()
        for version in records[name, record_id]:
            for place in server.links_of(server.tables[name], version):
                if place in records and server.tables[place[0]].filtered and place not in reached:
                    reached.add(place)
                    waiting.append(place)
    return reached


@pytest.fixture(autouse=True)
def _quiet():
    """Silence the runs' warnings about the faults of the schedule."""
    logger = logging.getLogger("dataverse_sync")
    logger.setLevel(logging.CRITICAL + 1)
    yield
    logger.setLevel(logging.NOTSET)


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK), ids=lambda n: f"{n}-{n + CHUNK}")
def test_one_more_sync_equals_the_service(first, tmp_path):
    for seed in range(first, first + CHUNK):
        folder = tmp_path / str(seed)
        folder.mkdir()
        try:
            play(seed, folder)
        except AssertionError as error:
            error.add_note(f"seed {seed}")
            raise
