"""The demo's environment: believable, the same every time, mostly linked to by nothing."""

import datetime as dt
import json
import time
from collections import Counter
from pathlib import Path

import pytest
from emulator_caller import Caller

from dataverse_sync.emulator import Clock, Emulator, change_demo, demo_tables, fill_demo
from dataverse_sync.emulator.demo.demo_data import COUNTS, LATEST, DemoWriter
from dataverse_sync.emulator.demo.demo_tables import LINKS

pytestmark = pytest.mark.slow
CONFIGURED = Path(__file__).parents[2] / "entities_config.json"
SCALE = 0.5
BUSINESS = [name for name in COUNTS if name.startswith("vin_")]


@pytest.fixture(scope="module")
def filled():
    """Half of the demo, made once for this module."""
    emulator = Emulator(demo_tables(), clock=Clock(LATEST + dt.timedelta(days=1)))
    fill_demo(emulator, scale=SCALE)
    return emulator


@pytest.fixture(scope="module")
def everything(filled):
    return {name: filled.rows(name) for name in filled.tables}


def test_demo_has_shipped_entities():
    names = {entity["name"] for entity in json.loads(CONFIGURED.read_text("utf-8"))["entities"]}

    assert {table.entity_set for table in demo_tables()} == names
    assert {*COUNTS, *LINKS} == names


def test_demo_has_stated_size(everything):
    sizes = {name: len(rows) for name, rows in everything.items()}
    writer = DemoWriter(scale=SCALE)

    assert 8_000 <= sum(COUNTS[name] for name in BUSINESS) <= 9_000
    assert (COUNTS["accounts"], COUNTS["contacts"]) == (10_000, 4_000)
    assert all(sizes[name] == writer.scaled(count) for name, count in COUNTS.items())
    assert all(sizes[name] == writer.scaled(count) for name, (_, _, count) in LINKS.items())


def test_demo_is_same_every_time():
    first, second = DemoWriter(scale=SCALE), DemoWriter(scale=SCALE)

    assert list(first.records("vin_candidates")) == list(second.records("vin_candidates"))
    assert list(first.links("vin_vin_candidate_accountset")) == list(
        second.links("vin_vin_candidate_accountset")
    )


def test_few_accounts_and_contacts_reachable(everything):
    accounts, contacts = everything["accounts"], everything["contacts"]
    reached: set[str] = set()
    waiting = {
        value
        for name, rows in everything.items()
        if name.startswith("vin_")
        for row in rows.values()
        for value in row.values()
        if isinstance(value, str) and (value in accounts or value in contacts)
    }
    while waiting:
        id_ = waiting.pop()
        reached.add(id_)
        row = accounts.get(id_) or contacts[id_]
        links = ("_primarycontactid_value", "_parentaccountid_value", "_parentcustomerid_value")
        waiting |= {row[link] for link in links if row.get(link)} - reached

    assert 200 < len(reached & accounts.keys()) / SCALE < 1_000
    assert 100 < len(reached & contacts.keys()) / SCALE < 1_000


def test_every_lookup_finds_its_record(everything):
    ids = {id_ for rows in everything.values() for id_ in rows}
    dangling = Counter(
        (name, column)
        for name, rows in everything.items()
        for row in rows.values()
        for column, value in row.items()
        if value is not None and column.startswith("_") and value not in ids
    )

    assert dangling == {}


def test_moments_spread_with_ties(everything):
    moments = Counter(row["modifiedon"] for row in everything["vin_clinicaltrials"].values())

    assert max(moments) <= "2025-06-30T18:00:00Z"
    assert min(moments) < "2023-08-01T00:00:00Z"
    assert max(moments.values()) > 2
    assert all(row["createdon"] <= row["modifiedon"] for row in everything["accounts"].values())


def test_columns_hold_nulls_and_values(everything):
    candidates = list(everything["vin_candidates"].values())

    def some(column: str) -> list:
        return [row[column] for row in candidates if row[column] is not None]

    assert any("\r\n" in text for text in some("vin_description"))
    assert any(not text.isascii() for text in some("vin_description"))
    assert all(value > 2**53 for value in some("vin_externalid"))
    assert any("," in value for value in some("vin_populations"))
    assert all(-value.as_tuple().exponent == 4 for value in some("vin_funding"))
    assert all(-value.as_tuple().exponent == 10 for value in some("exchangerate"))
    assert set(some("vin_ispriority")) == {True, False}
    assert len(some("vin_funding")) < len(candidates)


def test_only_some_tables_tracked():
    tracked = {table.entity_set for table in demo_tables() if table.change_tracking}

    assert {"vin_candidates", "accounts"} <= tracked
    assert {"contacts", "vin_sources"}.isdisjoint(tracked)


def test_page_of_5000_sent_quickly(filled):
    emulator = filled
    with emulator:
        caller = Caller(emulator)
        with caller.session:
            caller.sign_in()
            caller.get("accounts?$select=name&$top=1")
            began_at = time.process_time()
            answer = caller.get("accounts", **{"Accept-Encoding": "identity"})
            spent_s = time.process_time() - began_at

    assert len(answer.json()["value"]) == 5_000
    assert spent_s < 1  # about 0.05 on an idle machine, the client's share included


def test_changes_match_their_summary(filled, everything):
    summary = change_demo(filled)
    after = {name: filled.rows(name) for name in everything}

    found = {}
    for name, before in everything.items():
        created = len(after[name].keys() - before.keys())
        deleted = len(before.keys() - after[name].keys())
        updated = sum(after[name].get(id_, row) != row for id_, row in before.items())
        if created or deleted or updated:
            found[name] = (created, updated, deleted)
    assert found == {
        name: (change.created, change.updated, change.deleted) for name, change in summary.items()
    }
    assert 30 <= sum(map(sum, found.values())) <= 100
    linked = [
        row["accountid"]
        for id_, row in after["vin_vin_candidate_accountset"].items()
        if id_ not in everything["vin_vin_candidate_accountset"]
    ]
    assert len(linked) == 5


def test_second_day_changes_other_records():
    emulator = Emulator(demo_tables(), clock=Clock(LATEST + dt.timedelta(days=1)))
    fill_demo(emulator, scale=0.1)

    first = change_demo(emulator, seed=1)
    second = change_demo(emulator, seed=2)

    reviewed = Counter(
        row["vin_description"]
        for row in emulator.rows("vin_candidates").values()
        if "Reviewed" in (row["vin_description"] or "")
    )
    assert set(reviewed) == {"Reviewed in round 1 ✓", "Reviewed in round 2 ✓"}
    assert first.keys() >= {"vin_candidates", "accounts"}
    assert second["vin_candidates"].created == first["vin_candidates"].created
