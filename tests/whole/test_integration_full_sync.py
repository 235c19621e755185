"""A first sync over real HTTP: every record is copied byte for byte."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from conftest import (
    ACCOUNTS,
    CANDIDATES,
    CANDIDATES_ONLY,
    ENTITIES,
    LINKS,
    OLD,
    PRODUCTS,
    TABLES,
    insert,
)

from dataverse_sync import EntityConfig
from dataverse_sync.emulator import Column, Fault, Table
from dataverse_sync.model import Counts


def names(world, table: str, column: str) -> list[str]:
    return [row[0] for row in world.query(f'SELECT "{column}" FROM "{table}" ORDER BY 1')]


def test_unfiltered_tables_copied_byte_for_byte(world):
    report = world.sync()

    assert report.ok
    assert world.is_mirror("vin_candidates", "vin_products", "vin_vin_candidate_accountset")
    assert len(world.copy("vin_candidates")) == 12


def test_filtered_tables_hold_linked_records_only(world):
    world.sync()

    assert names(world, "accounts", "name") == ["Fabrikam", "Litware"]
    assert names(world, "contacts", "fullname") == ["Nancy"]
    assert all(
        world.source("accounts")[key] == text for key, text in world.copy("accounts").items()
    )


def test_the_summary_tells_each_entity_exactly(world):
    report = world.sync()

    assert {entity.name: entity.counts for entity in report.entities} == {
        "vin_candidates": Counts(fetched=12, added=12),
        "vin_products": Counts(fetched=8, added=8),
        "vin_vin_candidate_accountset": Counts(fetched=1, added=1),
        "accounts": Counts(fetched=2, added=2),
        "contacts": Counts(fetched=1, added=1),
    }
    assert {entity.state for entity in report.entities} == {"completed"}
    pages = sum(len(world.asked(kind=kind)) for kind in ("data", "thin", "delta"))
    assert report.requests == pages


def test_run_logged_for_every_entity(world):
    report = world.sync()

    log = world.query(
        "SELECT run_id, entity_name, status, records_fetched, records_added, requests, error "
        "FROM _sync_log ORDER BY id"
    )
    assert sorted(log) == sorted(
        (
            report.run_id,
            one.name,
            "completed",
            one.counts.fetched,
            one.counts.added,
            one.requests,
            None,
        )
        for one in report.entities
    )
    assert world.query("SELECT count(*) FROM _sync_log WHERE finished_at >= started_at") == [(5,)]


def test_the_state_tells_rows_and_bookmark(world):
    world.sync()

    state = world.query(
        "SELECT entity_name, state, last_timestamp, records_count, error, checkpoint "
        "FROM _sync_state ORDER BY 1"
    )
    assert state == [
        ("accounts", "completed", OLD, 2, None, None),
        ("contacts", "completed", OLD, 1, None, None),
        ("vin_candidates", "completed", OLD, 12, None, None),
        ("vin_products", "completed", OLD, 8, None, None),
        ("vin_vin_candidate_accountset", "completed", None, 1, None, None),
    ]


def test_rows_hold_own_and_added_columns(world):
    world.sync()

    key, text = next(iter(world.source("vin_candidates").items()))
    record = json.loads(text)
    (row,) = world.query(
        "SELECT vin_name, vin_number, vin_dose, _vin_developerid_value, modifiedon, valid_from, "
        "versionnumber, sync_time FROM vin_candidates WHERE vin_candidateid = ?",
        key,
    )
    assert row[:4] == (
        record["vin_name"],
        record["vin_number"],
        None,
        record["_vin_developerid_value"],
    )
    assert row[4:7] == (OLD, OLD, record["versionnumber"])
    assert row[7].endswith("Z")


def test_tables_have_types_keys_and_indexes(world):
    world.sync()

    columns = {
        name: (type_, key)
        for _, name, type_, _, _, key in world.query("PRAGMA table_info(vin_candidates)")
    }
    indexes = {row[1] for row in world.query("PRAGMA index_list(vin_candidates)")}
    assert columns["vin_candidateid"] == ("TEXT", 1)
    assert columns["vin_number"] == ("INTEGER", 0)
    assert columns["vin_dose"] == ("REAL", 0)
    assert columns["_vin_developerid_value"] == ("TEXT", 0)
    assert {"idx_vin_candidates_modifiedon", "idx_vin_candidates_createdon"} <= indexes


@pytest.mark.parametrize(
    "text",
    [
        'O\'Brien "& Sons"',
        "two\r\nlines\tand a tab ",
        "ὀξύ 漢字 🧬 \u202eright to left\u202c \u2028 \x7f",
        "'); DROP TABLE vin_candidates; --",
        "\\u0041 \\ / \x01",
        "x" * 100_000,
        "",
    ],
)
def test_any_text_is_kept_exactly(make_world, text):
    world = make_world([CANDIDATES])
    world.emulator.insert("vin_candidates", {"vin_name": text})

    world.sync(CANDIDATES_ONLY)

    assert names(world, "vin_candidates", "vin_name") == [text]
    assert world.is_mirror("vin_candidates")


@pytest.mark.parametrize("number", [2**53 + 1, 2**63 - 1, -(2**63), 0])
def test_integers_beyond_float_precision_exact(make_world, number):
    world = make_world([CANDIDATES])
    world.emulator.insert("vin_candidates", {"vin_number": number})

    world.sync(CANDIDATES_ONLY)

    assert names(world, "vin_candidates", "vin_number") == [number]


def test_long_decimal_exact_in_json(make_world):
    world = make_world([CANDIDATES])
    world.emulator.insert("vin_candidates", {"vin_dose": Decimal("12345678901.2345678900")})

    world.sync(CANDIDATES_ONLY)

    (text,) = world.copy("vin_candidates").values()
    assert b'"vin_dose":12345678901.2345678900' in text
    assert names(world, "vin_candidates", "vin_dose") == [12345678901.23456789]


def test_sql_keywords_allowed_as_names(make_world):
    columns = [Column(name, "String") for name in ("order", "group", "select", "table", "Index")]
    world = make_world([Table("values", "where", "whereid", columns)])
    world.emulator.insert("where", {"order": "1st", "group": "a", "select": "*", "Index": "i"})

    report = world.sync([EntityConfig("where")])

    assert report.ok
    assert world.query('SELECT "order", "group", "select", "table", "Index" FROM "where"') == [
        ("1st", "a", "*", None, "i")
    ]


def test_number_after_nulls_stays_number(make_world):
    world = make_world([CANDIDATES])
    insert(world.emulator, "vin_candidates", [{"vin_number": None} for _ in range(7)])
    insert(world.emulator, "vin_candidates", [{"vin_number": 7}])

    world.sync(CANDIDATES_ONLY)

    assert names(world, "vin_candidates", "vin_number") == [None] * 7 + [7]


def test_next_links_followed_to_last_page(make_world):
    world = make_world([CANDIDATES])
    insert(world.emulator, "vin_candidates", [{"vin_name": str(n)} for n in range(23)])

    world.sync(CANDIDATES_ONLY)

    assert [request.records for request in world.asked()] == [5, 5, 5, 5, 3]
    assert world.is_mirror("vin_candidates")


def test_first_read_not_followed_by_comparison(world):
    world.sync()

    assert world.asked(kind="thin") == []
    assert [request.entity_set for request in world.asked(kind="delta")] == ["vin_products"] * 2


def test_filtered_records_read_fifty_at_once(make_world):
    world = make_world(TABLES)
    accounts = insert(world.emulator, "accounts", [{"name": str(n)} for n in range(120)])
    insert(world.emulator, "vin_candidates", [{"vin_developerid": key} for key in accounts])

    world.sync(ENTITIES)

    first = [request for request in world.asked("accounts") if "$skiptoken" not in request.query]
    assert sorted(request.query["$filter"].count(" eq ") for request in first) == [20, 50, 50]
    assert all("'" not in request.query["$filter"] for request in first)
    assert world.is_mirror("accounts")


def test_text_without_guid_never_in_filter(make_world):
    notes = Table("note", "notes", "noteid", [Column("accountid", "String")], intersect=True)
    world = make_world([notes, ACCOUNTS])
    (account,) = insert(world.emulator, "accounts", [{"name": "Litware"}])
    insert(
        world.emulator,
        "notes",
        [{"accountid": "x or true"}, {"accountid": account.upper()}, {"accountid": "' or 1 eq 1"}],
    )

    report = world.sync([EntityConfig("notes"), EntityConfig("accounts", filtered=True)])

    assert report.ok
    assert [request.query["$filter"] for request in world.asked("accounts")] == [
        f"accountid eq {account}"
    ]
    assert world.is_mirror("accounts")


def test_circular_links_read_once(make_world):
    world = make_world(TABLES)
    (contact,) = insert(world.emulator, "contacts", [{"fullname": "Nancy"}])
    (account,) = insert(world.emulator, "accounts", [{"primarycontactid": contact}])
    (parent,) = insert(world.emulator, "accounts", [{"parentaccountid": account}])
    world.emulator.update("contacts", contact, {"parentcustomerid": parent}, modifiedon=OLD)
    insert(world.emulator, "vin_candidates", [{"vin_developerid": account}])

    world.sync()

    assert world.is_mirror("accounts", "contacts")
    assert sum(request.records for request in world.asked("accounts")) == 2


def test_an_empty_table_is_complete(make_world):
    world = make_world([CANDIDATES, PRODUCTS, LINKS])

    report = world.sync(ENTITIES[:3])

    assert report.ok
    assert [entity.state for entity in report.entities] == ["completed"] * 3
    assert world.state("vin_candidates", "last_timestamp") is None


# What fails, fails alone


def test_unknown_entity_set_fails_others_complete(world):
    report = world.sync([*ENTITIES, EntityConfig("vin_typos")])

    assert not report.ok
    (failed,) = report.failed
    assert failed.name == "vin_typos"
    assert "404" in failed.error
    assert "entity set name (plural)" in failed.error
    assert world.is_mirror("vin_candidates", "vin_products")
    assert world.state("vin_typos", "state, error") == "failed"


def test_a_missing_privilege_is_named(make_world):
    forbidden = Table("vin_secret", "vin_secrets", "vin_secretid", [], privilege_missing=True)
    world = make_world([CANDIDATES, forbidden])
    insert(world.emulator, "vin_candidates", [{"vin_name": "A"}])

    report = world.sync([*CANDIDATES_ONLY, EntityConfig("vin_secrets")])

    (failed,) = report.failed
    assert "403" in failed.error
    assert "prvReadvin_secret" in failed.error
    assert world.query(
        "SELECT state, error FROM _sync_state WHERE entity_name = 'vin_secrets'"
    ) == [("failed", failed.error)]
    assert world.is_mirror("vin_candidates")


def test_answer_without_page_fails_entity(world):
    world.emulator.control.fault(
        Fault("body", match=r"/vin_products\?", times=9, body=b'{"answer": 42}', status=200)
    )

    report = world.sync()

    assert [entity.name for entity in report.failed] == ["vin_products"]
    assert "has no 'value' array" in report.failed[0].error
    assert world.is_mirror("vin_candidates")


def test_record_without_key_fails_whole_page(make_world):
    world = make_world([CANDIDATES])
    good = [{"vin_candidateid": f"{n}", "vin_name": str(n)} for n in range(600)]
    body = json.dumps({"value": [*good, {"vin_name": "keyless"}]}).encode()
    world.emulator.control.fault(Fault("body", match=r"/vin_candidates\?", body=body, status=200))

    report = world.sync(CANDIDATES_ONLY)

    assert "a record has no vin_candidateid" in report.failed[0].error
    assert world.copy("vin_candidates") == {}
    assert report.failed[0].counts == Counts()
    assert world.query("SELECT status, records_fetched, records_added FROM _sync_log") == [
        ("failed", 0, 0)
    ]


# Without metadata


def test_sample_gives_columns_without_metadata(make_world, caplog):
    world = make_world(TABLES, metadata_readable=False)
    (account,) = insert(world.emulator, "accounts", [{"name": "Litware"}])
    insert(world.emulator, "accounts", [{"name": "Nobody's"}])
    insert(world.emulator, "vin_candidates", [{"vin_name": "A", "vin_developerid": account}])

    report = world.sync([ENTITIES[0], ENTITIES[3]])

    assert report.ok
    assert world.is_mirror("vin_candidates")
    assert list(world.copy("accounts")) == [account]
    assert "metadata cannot be read" in caplog.text
    assert "key vin_candidateid ('vin_candidate' + 'id')" in caplog.text


def test_empty_table_without_metadata_is_pending(make_world):
    world = make_world([CANDIDATES], metadata_readable=False)
    pending = world.sync(CANDIDATES_ONLY)
    insert(world.emulator, "vin_candidates", [{"vin_name": "A"}])

    completed = world.sync(CANDIDATES_ONLY)

    assert pending.ok
    assert [entity.state for entity in pending.entities] == ["pending"]
    assert [entity.state for entity in completed.entities] == ["completed"]
    assert world.is_mirror("vin_candidates")


def test_table_missing_in_metadata_is_sampled(make_world):
    unknown = Table(
        "vin_odd", "vin_odds", "vin_oddid", [Column("vin_n", "Integer")], in_metadata=False
    )
    world = make_world([CANDIDATES, unknown])
    insert(world.emulator, "vin_odds", [{"vin_n": 1}, {"vin_n": 2}])

    report = world.sync([*CANDIDATES_ONLY, EntityConfig("vin_odds")])

    assert report.ok
    assert world.is_mirror("vin_odds")
    assert names(world, "vin_odds", "vin_n") == [1, 2]
