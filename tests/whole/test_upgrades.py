"""A database of an earlier version is resumed: nothing is read again, no row rewritten.

The folders ``fixtures/version_*`` hold what that version left when it was killed, and what the
service held. Here the present version goes on from it, as processes over real HTTP.
"""

from __future__ import annotations

import gzip
import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from loopback import LoopbackServer
from processes import run_python
from small_service import API, SmallService

pytestmark = pytest.mark.slow

FIXTURES = Path(__file__).parents[1] / "fixtures"
PLACEHOLDER = "http://127.0.0.1:1"  # in the stored links, instead of the service's origin
JUNCTION = "vin_vin_candidate_accountset"  # without modifiedon: read in full by each run
INTERRUPTED = ("vin_orders", "vin_notes", "vin_events")
COMPLETE = ("vin_products", "vin_candidates", "vin_visits", JUNCTION)
FILTERED = ("accounts", "contacts")
FAILED = "vin_reviews"  # was refused; may be read again now
TAKEN_OUT = "vin_oldnotes"  # not configured any more
SYNCED = (*COMPLETE, *INTERRUPTED, *FILTERED, FAILED)

Row = dict[str, Any]
Tables = dict[str, list[Row]]


@dataclass(frozen=True)
class Ran:
    """The result of one process: status, requests, and the records that it received whole."""

    status: int
    output: str
    targets: list[str]
    sent_whole: dict[str, set[str]]  # entity set → ids
    tables: Tables  # after it


@dataclass(frozen=True)
class Upgrade:
    """The database before the upgrade, and after runs of the present version."""

    source: dict[str, Any]
    keys: dict[str, str]  # entity set → its key
    lock: bytes  # schema.json as it was
    lock_after: bytes
    before: Tables
    sync: Ran
    verify: Ran
    status: Ran
    second_sync: Ran

    def texts(self, tables: Tables, name: str) -> dict[str, str]:
        return {row[self.keys[name]]: row["json_response"] for row in tables[name]}

    def held(self, name: str) -> dict[str, str]:
        """Return the service's records: key → text."""
        records = self.source["records"][name]
        return {json.loads(text)[self.keys[name]]: text for text in records}


def read_tables(db_path: Path, columns: Tables | None = None) -> Tables:
    """Read every table, ``sqlite_master`` included; only the columns known before if given."""
    with closing(sqlite3.connect(db_path)) as connection:
        connection.row_factory = sqlite3.Row
        found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        tables = {}
        for name in ["sqlite_master", *(row["name"] for row in found)]:
            known = columns.get(name) if columns else None
            chosen = ", ".join(f'"{column}"' for column in known[0]) if known else "*"
            rows = connection.execute(f'SELECT {chosen} FROM "{name}"')
            tables[name] = sorted((dict(row) for row in rows), key=repr)
        return tables


def unpack(fixture: Path, folder: Path, origin: str) -> Path:
    """Copy a fixture's files into this folder, with links to the running service."""
    db_path = folder / "dataverse.db"
    db_path.write_bytes(gzip.decompress((fixture / "dataverse.db.gz").read_bytes()))
    (folder / "schema").mkdir()
    shutil.copy(fixture / "schema.json", folder / "schema" / "schema.json")
    shutil.copy(fixture / "entities_config.json", folder)
    with closing(sqlite3.connect(db_path)) as connection, connection:
        for column in ("checkpoint", "delta_link"):
            connection.execute(
                f"UPDATE _sync_state SET {column} = replace({column}, ?, ?)", (PLACEHOLDER, origin)
            )
    return db_path


def run(command: str, folder: Path, server: LoopbackServer, source: Any, before: Tables) -> Ran:
    """Run one command as a process, with a new service."""
    server.script = service = SmallService(source)
    server.asked.clear()
    done = run_python(
        folder,
        *("-m", "dataverse_sync", command, "--db", "dataverse.db"),
        DATAVERSE_API_URL=server.origin + API,
        DATAVERSE_CLIENT_ID="app",
        DATAVERSE_CLIENT_SECRET="kept-for-nobody",
    )
    sent: dict[str, set[str]] = {}
    for name, record_id in service.sent_whole:
        sent.setdefault(name, set()).add(record_id)
    tables = read_tables(folder / "dataverse.db", before)
    return Ran(done.returncode, done.stdout + done.stderr, server.targets(), sent, tables)


@pytest.fixture(scope="module", params=["version_0.1.0"])
def upgrade(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Upgrade:
    fixture, folder = FIXTURES / request.param, tmp_path_factory.mktemp(request.param)
    source = json.loads((fixture / "source.json").read_text(encoding="utf-8"))
    lock = (fixture / "schema.json").read_bytes()
    with LoopbackServer(SmallService(source)) as server:
        before = read_tables(unpack(fixture, folder, server.origin))
        runs = [
            run(command, folder, server, source, before)
            for command in ("sync", "verify", "status", "sync")
        ]
    keys = {name: about["key"] for name, about in json.loads(lock)["entities"].items()}
    lock_after = (folder / "schema" / "schema.json").read_bytes()
    return Upgrade(source, keys, lock, lock_after, before, *runs)


def states(tables: Tables) -> dict[str, Row]:
    return {row["entity_name"]: row for row in tables["_sync_state"]}


def links(state: Row) -> list[str]:
    """Return the links that an interrupted read resumes from, without their origin."""
    checkpoint = json.loads(state["checkpoint"])
    ranges = [checkpoint, *checkpoint["segments"]]
    return [API + one["next_link"].partition(API)[2] for one in ranges if one["next_link"]]


def test_upgraded_run_completes_every_entity(upgrade):
    assert upgrade.sync.status == 0, upgrade.sync.output

    after = states(upgrade.sync.tables)

    assert {after[name]["state"] for name in SYNCED} == {"completed"}
    assert {after[name]["error"] for name in SYNCED} == {None}
    assert {after[name]["checkpoint"] for name in SYNCED} == {None}
    for name in (*COMPLETE, *INTERRUPTED, FAILED):
        assert upgrade.texts(upgrade.sync.tables, name) == upgrade.held(name), name


def test_interrupted_reads_resume_from_links(upgrade):
    before = states(upgrade.before)

    kept = {name: links(before[name]) for name in INTERRUPTED}

    assert len(kept["vin_events"]) > 1
    for name, found in kept.items():
        assert found, name
        assert [upgrade.sync.targets.count(link) for link in found] == [1] * len(found), name


def test_stored_delta_link_is_followed(upgrade):
    link = states(upgrade.before)["vin_products"]["delta_link"]

    assert API + link.partition(API)[2] in upgrade.sync.targets


def test_only_missing_or_changed_read(upgrade):
    due = {}
    for name in SYNCED:
        stored = upgrade.texts(upgrade.before, name)
        after = upgrade.texts(upgrade.sync.tables, name)
        due[name] = {key for key, text in after.items() if stored.get(key) != text}

    sent = {name: upgrade.sync.sent_whole.get(name, set()) for name in SYNCED if name != JUNCTION}

    assert {name for name, ids in due.items() if ids} == {*INTERRUPTED, *FILTERED, FAILED}
    assert sent == {name: due[name] for name in sent}
    assert TAKEN_OUT not in upgrade.sync.sent_whole


def test_stored_rows_stay_as_they_were(upgrade):
    for name in (*COMPLETE, TAKEN_OUT):
        assert upgrade.sync.tables[name] == upgrade.before[name], name
    for name in (*INTERRUPTED, *FILTERED, FAILED):
        after = {row[upgrade.keys[name]]: row for row in upgrade.sync.tables[name]}
        current = upgrade.held(name)
        for row in upgrade.before[name]:
            key = row[upgrade.keys[name]]
            if row["json_response"] == current[key]:
                assert after[key] == row, name


def test_synced_tables_are_not_altered(upgrade):
    def made(tables):
        owners = (*SYNCED, TAKEN_OUT)
        return {r["name"]: r["sql"] for r in tables["sqlite_master"] if r["tbl_name"] in owners}

    before, after = made(upgrade.before), made(upgrade.sync.tables)

    assert before == {name: after.get(name) for name in before}


def test_tombstones_and_drift_stay(upgrade):
    def without_added(tables):
        return [row for row in tables["_schema_changes"] if row["change"] != "entity_added"]

    reasons = {row["reason"] for row in upgrade.before["_sync_deleted"]}
    changes = {row["change"] for row in without_added(upgrade.before)}

    assert reasons == {"deleted", "not_returned", "unlinked"}
    assert changes == {"column_added", "column_removed", "type_changed", "entity_removed"}
    assert upgrade.sync.tables["_sync_deleted"] == upgrade.before["_sync_deleted"]
    # The two entities that the killed run had added are no news any more.
    assert without_added(upgrade.sync.tables) == without_added(upgrade.before)
    assert len(upgrade.sync.tables["_schema_changes"]) == len(upgrade.before["_schema_changes"])


def test_labels_and_their_views_stay(upgrade):
    def views(tables):
        return {row["name"] for row in tables["sqlite_master"] if row["type"] == "view"}

    after = upgrade.sync.tables["_choices"]

    assert upgrade.before["_choices"]
    assert [row for row in upgrade.before["_choices"] if row not in after] == []
    assert "vin_products_labelled" in views(upgrade.before)
    assert views(upgrade.before) <= views(upgrade.sync.tables)


def test_bookmarks_of_complete_tables_stay(upgrade):
    before, after = states(upgrade.before), states(upgrade.sync.tables)

    for name in COMPLETE:
        for column in ("last_timestamp", "records_count"):
            assert after[name][column] == before[name][column], name
    assert after[TAKEN_OUT] == before[TAKEN_OUT]


def test_log_of_earlier_runs_stays(upgrade):
    after = {row["id"]: row for row in upgrade.sync.tables["_sync_log"]}
    changed = {"status", "finished_at", "error"}

    killed = [row for row in upgrade.before["_sync_log"] if row["status"] == "in_progress"]

    assert {row["entity_name"] for row in killed} == {*INTERRUPTED, *FILTERED}
    for row in upgrade.before["_sync_log"]:
        if row not in killed:
            assert after[row["id"]] == row
            continue
        assert after[row["id"]]["status"] == "failed"
        assert after[row["id"]]["finished_at"]
        assert after[row["id"]]["error"]
        assert {n: v for n, v in after[row["id"]].items() if n not in changed} == {
            n: v for n, v in row.items() if n not in changed
        }


def test_schema_file_stays_byte_for_byte(upgrade):
    assert upgrade.lock_after == upgrade.lock


def test_verify_and_status_succeed_after_upgrade(upgrade):
    assert upgrade.verify.status == 0, upgrade.verify.output
    assert upgrade.status.status == 0, upgrade.status.output
    assert all(name in upgrade.status.output for name in SYNCED)


def test_second_run_changes_nothing(upgrade):
    first, second = upgrade.sync, upgrade.second_sync

    assert second.status == 0, second.output
    assert second.sent_whole.keys() <= {JUNCTION, "stringmaps"}
    for name in (*SYNCED, TAKEN_OUT, "_sync_deleted", "_schema_changes", "_choices"):
        assert second.tables[name] == first.tables[name], name
