"""The demo's environment: believable, the same every time, mostly linked to by nothing."""

import datetime as dt
import json
import time
from collections import Counter
from pathlib import Path

import pytest
from emulator_caller import Caller

from dataverse_sync.emulator import Clock, Emulator, change_demo, demo_tables, fill_demo
from dataverse_sync.emulator.demo.demo_data import COUNTS, LATEST, LINKS, DemoWriter

CONFIGURED = Path(__file__).parents[2] / "entities_config.json"
SCALE = 0.1
BUSINESS = [name for name in COUNTS if name.startswith("vin_")]


@pytest.fixture(scope="module")
def filled():
    emulator = Emulator(demo_tables(), clock=Clock(LATEST + dt.timedelta(days=1)))
    fill_demo(emulator, scale=SCALE)
    return emulator


@pytest.fixture(scope="module")
def everything(filled):
    return {table.entity_set: filled.rows(table.entity_set) for table in filled.tables}


def test_it_has_the_tables_of_the_shipped_configuration():
    names = {entity["name"] for entity in json.loads(CONFIGURED.read_text("utf-8"))["entities"]}

    assert {table.entity_set for table in demo_tables()} == names
    assert {*COUNTS, *LINKS} == names


def test_it_is_as_large_as_it_says(everything):
    sizes = {name: len(rows) for name, rows in everything.items()}
    writer = DemoWriter(scale=SCALE)

    assert 38_000 <= sum(COUNTS[name] for name in BUSINESS) <= 42_000
    assert (COUNTS["accounts"], COUNTS["contacts"]) == (50_000, 20_000)
    assert all(sizes[name] == writer.scaled(name, count) for name, count in COUNTS.items())
    assert all(sizes[name] == writer.scaled(name, count) for name, (_, _, count) in LINKS.items())


def test_it_is_the_same_every_time():
    first, second = DemoWriter(scale=SCALE), DemoWriter(scale=SCALE)

    assert list(first.records("vin_candidates")) == list(second.records("vin_candidates"))
    assert list(first.links("vin_vin_candidate_accountset")) == list(
        second.links("vin_vin_candidate_accountset")
    )


def test_only_a_few_thousand_accounts_and_contacts_can_be_reached(everything):
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

    assert 1_000 < len(reached & accounts.keys()) / SCALE < 5_000
    assert 500 < len(reached & contacts.keys()) / SCALE < 5_000


def test_every_link_leads_to_a_record(everything):
    ids = {id_ for rows in everything.values() for id_ in rows}
    dangling = Counter(
        (name, column)
        for name, rows in everything.items()
        for row in rows.values()
        for column, value in row.items()
        if value is not None and column.startswith("_") and value not in ids
    )

    assert dangling == {}


def test_moments_spread_over_two_years_with_some_ties(everything):
    moments = Counter(row["modifiedon"] for row in everything["vin_clinicaltrials"].values())

    assert max(moments) <= "2025-06-30T18:00:00Z"
    assert min(moments) < "2023-08-01T00:00:00Z"
    assert max(moments.values()) > 2
    assert all(row["createdon"] <= row["modifiedon"] for row in everything["accounts"].values())


def test_its_columns_hold_nulls_and_every_kind_of_value(everything):
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


def test_some_tables_are_tracked_and_some_are_not():
    tracked = {table.entity_set for table in demo_tables() if table.change_tracking}

    assert {"vin_candidates", "accounts"} <= tracked
    assert {"contacts", "vin_sources"}.isdisjoint(tracked)


def test_a_page_of_5000_accounts_costs_little(filled):
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


def test_a_days_work_changes_what_it_says(filled, everything):
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


def test_another_seed_is_another_day():
    emulator = Emulator(demo_tables(), clock=Clock(LATEST + dt.timedelta(days=1)))
    fill_demo(emulator, scale=0.01)

    first = change_demo(emulator, seed=1)
    second = change_demo(emulator, seed=2)

    assert first.keys() >= {"vin_candidates", "accounts"}
    assert second["vin_candidates"].created == first["vin_candidates"].created
