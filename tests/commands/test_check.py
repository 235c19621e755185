"""``check`` over the emulator: whether a sync would work, without writing anything."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import CANDIDATES, ENTITIES, PRODUCTS, TABLES, World, fill, insert

from dataverse_sync import EntityConfig
from dataverse_sync.commands.check import run_check
from dataverse_sync.commands.findings import Finding, format_findings, to_document
from dataverse_sync.emulator import Column, Fault, Table
from dataverse_sync.errors import AuthError, ConfigError
from dataverse_sync.moments import to_text
from dataverse_sync.redaction import Redactor
from dataverse_sync.store.run_lock import hold


def check(world: World, *only: str, entities: Any = ENTITIES) -> dict[str, Finding]:
    world.emulator.log.clear()
    findings = run_check(world.config(), entities, only, Redactor())
    return {finding.what: finding for finding in findings}


def products(world: World) -> Any:
    return world.emulator.rows("vin_products")


def test_check_writes_nothing(world: World) -> None:
    found = check(world)

    assert {finding.result for finding in found.values()} == {"ok"}
    assert list(world.folder.iterdir()) == []
    assert found["vin_candidates"].details["key"] == "vin_candidateid"
    assert found["vin_products"].details["change_tracking"] is True
    assert found["vin_vin_candidate_accountset"].details["modifiedon"] is False
    assert "it has no bookmark yet" in found["vin_candidates"].text
    assert "only what the synced tables link to" in found["accounts"].text
    assert "made by the first sync" in found["database"].text


def test_next_read_after_sync_shown(world: World) -> None:
    world.sync()

    found = check(world)

    assert "what changed since 2024-01-01T00:00:00Z" in found["vin_candidates"].text
    assert found["vin_candidates"].details["rows"] == 12
    assert "24 rows, no run is under way" in found["database"].text


def test_unknown_entity_set_fails_alone(world: World) -> None:
    found = check(world, entities=[EntityConfig("vin_typos"), *ENTITIES])

    assert found["vin_typos"].result == "failure"
    assert "404" in found["vin_typos"].text
    assert found["vin_candidates"].result == "ok"


def test_missing_privilege_is_named(make_world: Any) -> None:
    world: World = make_world([replace(TABLES[0], privilege_missing=True), *TABLES[1:]])
    fill(world.emulator)

    found = check(world)

    assert found["vin_candidates"].result == "failure"
    assert found["vin_candidates"].text == (
        "the application user lacks the privilege prvReadvin_candidate (403): give it a role "
        "that has it, for the whole organization"
    )
    assert found["vin_candidates"].details["missing_privilege"] == "prvReadvin_candidate"
    assert "403" in found["vin_candidates"].details["error"]


def test_way_out_said_once_below_short_lines(world: World) -> None:
    fault = Fault("status", r"v9.2/\w", 99, status=403, code="0x80072560", message="Not a member.")
    world.emulator.control.fault(fault)

    findings = list(check(world).values())
    lines = format_findings(findings)

    failures = [line for line in lines if line.startswith("failure ")]
    assert len(failures) == 5
    assert all(line.endswith("  403 0x80072560: Not a member") for line in failures)
    assert "\n".join(lines).count("Power Platform admin center") == 1
    assert lines[-3].startswith("The app is not a user of this environment: ")
    documents = to_document(findings)["findings"]
    assert [it["hint"] for it in documents if it["result"] == "failure"] == [lines[-3]] * 5


def test_other_name_of_service_is_found(world: World) -> None:
    named = "https://org.crm4.dynamics.com/api/data/v9.2/"
    answer = json.dumps({"@odata.context": f"{named}$metadata#vin_products", "value": []})
    world.emulator.control.fault(Fault("body", r"/vin_products\?", body=answer))

    findings = check(world)

    assert findings["address"].result == "warning"
    assert f"calls itself {named}, not {world.emulator.api_url}: " in findings["address"].text
    assert findings["address"].hint.endswith(f"set DATAVERSE_API_URL to {named}")
    assert all(findings[entity.name].result == "ok" for entity in ENTITIES)
    assert findings["address"].hint in format_findings([*findings.values()])
    assert "address" not in check(world)


def test_table_described_in_one_line(world: World) -> None:
    before = check(world)["vin_candidates"].text
    world.sync()
    insert(world.emulator, "vin_candidates", [{"vin_name": "new"}])
    world.wait(25 * 60)  # until the service has counted again

    after = check(world)

    assert before == (
        "about 12 rows, all of it (it has no bookmark yet), 8 columns, modifiedon, "
        "no change tracking, key vin_candidateid"
    )
    assert after["vin_candidates"].text.startswith("12 of about 13 rows, what changed since 2024")
    assert "all of it (it has no modifiedon)" in after["vin_vin_candidate_accountset"].text
    assert after["vin_products"].text.endswith("modifiedon, change tracking, key vin_productid")
    assert after["accounts"].text.startswith("2 rows, only what the synced tables link to, ")


def test_tables_aligned_in_columns(world: World) -> None:
    world.emulator.add_column("vin_candidates", Column("vin_before", "String"))
    world.sync()
    world.emulator.drop_column("vin_candidates", "vin_before")

    lines = format_findings(list(check(world).values()))

    tables = [line for line in lines if " columns " in line]
    assert len(tables) == 5
    assert len({line.index("  key ") for line in tables}) == 1
    assert tables[0].startswith("warning  vin_candidates                12 of about 12 rows  what")
    assert "  schema drift: vin_candidates.vin_before: column (TEXT) is gone" in tables[0]
    assert all(line == line.rstrip() for line in lines)


def test_rows_counted_in_one_request(world: World) -> None:
    found = check(world)

    assert len([one for one in world.emulator.log if "RetrieveTotal" in one.target]) == 1
    assert found["vin_products"].details["rows_expected"] == 8
    assert found["accounts"].details["rows_expected"] is None


def test_uncounted_rows_are_unknown(world: World) -> None:
    world.emulator.control.fault(Fault("status", match="RetrieveTotal", status=403, times=9))

    found = check(world)

    assert found["vin_products"].result == "ok"
    assert found["vin_products"].text.startswith("rows unknown, ")
    assert "about 0 bytes more expected, 5 of 5 tables not counted" in found["disk"].text


def test_full_disk_is_warned_of(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def check_with(free: int) -> dict[str, Finding]:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
        return check(world, "vin_products")

    world.emulator.log.clear()
    (size,) = {len(world.emulator.record_bytes("vin_products", key)) for key in products(world)}
    needed = 8 * size * 2  # of the database, for so many bytes of JSON

    enough = check_with(int(needed * 1.5))
    little = check_with(int(needed * 1.5) - 1)

    assert enough["disk"].result == "ok"
    assert abs(enough["disk"].details["expected_bytes"] - needed) <= needed / 10
    assert little["disk"].result == "warning"
    assert "free some space, or name a database on another disk with --db" in little["disk"].text


def test_stored_rows_need_no_space(world: World) -> None:
    world.sync()

    found = check(world)

    assert found["disk"].details["expected_bytes"] == 0


def test_unknown_disk_space_is_warned_of(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> int:
        raise OSError("no such device")

    monkeypatch.setattr(shutil, "disk_usage", refuse)

    found = check(world)

    assert found["disk"].result == "warning"
    assert "no such device" in found["disk"].text


def test_unfinished_and_failed_entities_shown(world: World) -> None:
    world.sync()
    world.execute("UPDATE _sync_state SET state = 'in_progress' WHERE entity_name = 'accounts'")
    world.execute("UPDATE _sync_state SET state = 'failed' WHERE entity_name = 'contacts'")

    found = check(world)

    assert found["database"].text.endswith(
        "the previous run was killed or the machine went down, the next run resumes accounts, "
        "failed in the last run: accounts, contacts (see: status)"
    )
    assert found["database"].details["failed"] == ["accounts", "contacts"]
    assert found["database"].details["unfinished"] == ["accounts"]


def test_schema_lock_state_shown(world: World) -> None:
    first = check(world)["schema"]
    world.sync()
    locked = check(world)["schema"]
    fewer = check(world, entities=ENTITIES[:4])["schema"]
    world.schema_path.unlink()
    lost = check(world)["schema"]

    assert first.text.endswith("schema.json: made by the first sync")
    assert locked.text.endswith("schema.json: 5 entities locked")
    assert fewer.text.endswith("no longer configured, their tables stay: contacts")
    assert lost.text.endswith("the file is missing or outdated, the next sync writes it again")


def test_many_schema_differences_shortened(world: World) -> None:
    world.sync()
    for name in ("vin_a", "vin_b", "vin_c", "vin_d", "vin_e"):
        world.emulator.add_column("vin_candidates", Column(name, "String"))

    found = check(world)["vin_candidates"]

    assert found.text.count("new column") == 3
    assert found.text.endswith(" and 2 more (see: schema diff)")
    assert len(found.details["drift"]) == 5


def test_drift_found_without_metadata(make_world: Any) -> None:
    hidden = Table(
        "vin_hidden",
        "vin_hiddens",
        "vin_hiddenid",
        [Column("vin_name", "String")],
        in_metadata=False,
    )
    world: World = make_world([hidden])
    entities = [EntityConfig("vin_hiddens")]
    insert(world.emulator, "vin_hiddens", [{"vin_name": "x"}])
    world.sync(entities)
    world.emulator.add_column("vin_hiddens", Column("vin_new", "String"))

    found = check(world, entities=entities)["vin_hiddens"]

    assert found.result == "warning"
    assert "vin_hiddens.vin_new: new column" in found.text
    assert "key vin_hiddenid (" in found.text  # and how it was found


def test_drift_is_warned_of(world: World) -> None:
    world.sync()
    world.emulator.add_column("vin_candidates", Column("vin_new", "String"))

    found = check(world)

    assert found["vin_candidates"].result == "warning"
    assert "new column" in found["vin_candidates"].text


def test_unknown_empty_table_is_warned_of(make_world: Any) -> None:
    hidden = Table("vin_hidden", "vin_hiddens", "vin_hiddenid", [], in_metadata=False)
    world: World = make_world([hidden])

    found = check(world, entities=[EntityConfig("vin_hiddens")])

    assert found["vin_hiddens"].result == "warning"


def test_unreadable_metadata_is_warned_of(world: World) -> None:
    world.emulator.control.fault(Fault("status", match="EntityDefinitions", status=403, times=9))

    found = check(world)

    assert found["metadata"].result == "warning"
    assert found["vin_candidates"].result == "ok"
    assert found["vin_candidates"].details["source"] == "sample"


@pytest.mark.parametrize("fault", ["status", "reset", "truncate"])
def test_check_survives_failing_metadata(
    world: World, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    name = "dataverse_sync.dataverse.transport.Retries.get_backoff_time"
    monkeypatch.setattr(name, lambda _: 0.0)
    options = {"status": 503} if fault == "status" else {}
    faults = Fault(fault, match="EntityDefinitions", times=999, **options)
    world.emulator.control.fault(faults)

    found = check(world)

    assert found["metadata"].result == "warning"
    assert "cannot be read: " in found["metadata"].text
    assert "new tables wait" in found["metadata"].text
    assert found["vin_candidates"].result == "failure"  # a sync would lock nothing new


def test_wrong_clock_is_warned_of(world: World) -> None:
    world.emulator.clock.advance(600)

    found = check(world)

    assert found["clock"].result == "warning"
    assert "behind the service: set it" in found["clock"].text


def test_database_in_use_is_warned_of(world: World) -> None:
    world.sync()

    with hold(world.db_path, world.emulator.clock.now()):
        found = check(world)

    assert found["database"].result == "warning"
    assert "in use by process" in found["database"].text


def test_wrong_secret_ends_check(world: World) -> None:
    config = world.config(client_secret="wrong-secret-value")

    with pytest.raises(AuthError, match="AADSTS7000215"):
        run_check(config, ENTITIES, (), Redactor())


def test_damaged_lock_ends_check(world: World) -> None:
    world.sync()
    world.schema_path.write_text("{", encoding="utf-8")

    with pytest.raises(ConfigError, match="damaged"):
        check(world)


def test_only_selected_entities_checked(world: World) -> None:
    found = check(world, "vin_products")

    assert set(found) == {"sign-in", "clock", "database", "disk", "schema", "vin_products"}


def test_last_line_counts_findings() -> None:
    findings = [
        Finding("sign-in", "ok", "fine"),
        Finding("accounts", "failure", "403\n and more"),
        Finding("contacts", "warning", "drift"),
    ]

    lines = format_findings(findings)

    assert lines[1] == "failure  accounts  403 and more"
    assert lines[-1] == "failures: 1, warnings: 1"
    assert to_document(findings)["ok"] is False
    assert to_document(findings)["findings"][0] == {
        "what": "sign-in",
        "result": "ok",
        "text": "fine",
        "details": {},
    }


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"table_type": "Elastic"}, "an elastic table"),
        ({"table_type": "Virtual"}, "a virtual table"),
        ({}, ""),
    ],
)
@pytest.mark.parametrize("filtered", [False, True])
def test_kind_of_table_is_named(
    make_world: Any, changes: dict[str, Any], text: str, filtered: bool
) -> None:
    world = make_world([replace(CANDIDATES, **changes), PRODUCTS])
    insert(world.emulator, "vin_candidates", [{"vin_name": "one"}])
    entities = [EntityConfig("vin_candidates", filtered=filtered), EntityConfig("vin_products")]

    (found,) = [
        finding
        for finding in run_check(world.config(), entities, (), Redactor())
        if finding.what == "vin_candidates"
    ]

    assert found.result == "ok"
    assert text in found.text
    assert found.details["oddities"] == ([] if not text else [found.details["oddities"][0]])


@pytest.mark.parametrize("status", [400, 404, 405, 501])
@pytest.mark.parametrize("is_synced", [False, True])
def test_refused_incremental_query_is_found(world: World, status: int, is_synced: bool) -> None:
    if is_synced:
        world.sync()
    fault = Fault("status", match="modifiedon%20gt", times=99, status=status, code="0x80048d0b")
    world.emulator.control.fault(fault)

    found = check(world)

    assert "refuses a filter by modifiedon" in found["vin_candidates"].text
    assert "refuses" not in found["vin_vin_candidate_accountset"].text


def test_what_was_refused_is_told(world: World) -> None:
    world.sync()
    world.execute(
        "UPDATE _sync_state SET asked_how = ?",
        json.dumps({"since": False, "page_size": 312, "found_at": to_text(datetime.now(UTC))}),
    )

    text = check(world)["vin_candidates"].text

    assert "refuses a filter by modifiedon" in text
    assert "cannot give larger pages than 312 records" in text


def test_other_organization_is_a_failure(world: World) -> None:
    world.sync()
    world.emulator.control.organization_id = "99999999-2222-4333-8444-555555555555"

    found = check(world)["environment"]

    assert found.result == "failure"
    assert "is organization 99999999" in found.text
    assert "--new-environment" in found.hint


def test_what_the_app_may_not_see_is_named_alone(world: World) -> None:
    secured = Column("vin_dose", "Decimal", secured=True)
    columns = [secured if one.name == "vin_dose" else one for one in CANDIDATES.columns]
    world.emulator.tables["vin_candidates"].spec = replace(CANDIDATES, columns=columns)
    control = world.emulator.control
    control.hidden = {("vin_candidates", "vin_dose")}
    control.depths["accounts"] = "Deep", set()

    found = check(world)

    assert {name for name, one in found.items() if one.result != "ok"} == {
        "vin_candidates",
        "accounts",
    }
    assert "vin_dose: a secured column that this app may not read" in found["vin_candidates"].text
    assert "prvReadaccount at depth Deep" in found["accounts"].text
    world.sync()
    control.hidden, control.depths = set(), {"accounts": ("Local", set())}
    found = check(world)
    assert "the next sync reads all of it" in found["vin_candidates"].text
    assert found["accounts"].result == "failure"
    assert "prvReadaccount reaches depth Local, was depth Deep" in found["accounts"].text


def test_rights_that_cannot_be_asked_for_are_a_warning(world: World) -> None:
    control = world.emulator.control
    control.unknown_functions = {"RetrieveUserSetOfPrivilegesByNames", "RetrieveUserPrivileges"}
    control.depths["accounts"] = "Local", set()
    assert "prvReadaccount at depth Local" in check(world)["accounts"].text  # asked one by one

    control.unknown_functions.add("RetrieveUserPrivilegeByPrivilegeName")
    found = check(world)

    assert found["rights"].result == "warning"
    assert "how deep it may read (RetrieveUserPriv" in found["rights"].text
    assert found["accounts"].result == "ok"
