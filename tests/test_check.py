"""``check`` over the emulator: whether a sync would work, without writing anything."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from conftest import ENTITIES, TABLES, World, fill

from dataverse_sync import EntityConfig
from dataverse_sync.check import Finding, format_findings, run_check, to_document
from dataverse_sync.emulator import Column, Fault, Table
from dataverse_sync.errors import AuthError, ConfigError
from dataverse_sync.redaction import Redactor
from dataverse_sync.run_lock import hold


def check(world: World, *only: str, entities: Any = ENTITIES) -> dict[str, Finding]:
    world.emulator.clear_log()
    findings = run_check(world.config(), entities, only, Redactor())
    return {finding.what: finding for finding in findings}


def test_all_is_well_and_nothing_is_written(world: World) -> None:
    found = check(world)

    assert {finding.result for finding in found.values()} == {"ok"}
    assert list(world.folder.iterdir()) == []
    assert found["vin_candidates"].details["key"] == "vin_candidateid"
    assert found["vin_products"].details["change_tracking"] is True
    assert found["vin_vin_candidate_accountset"].details["modifiedon"] is False
    assert "it has no bookmark yet" in found["vin_candidates"].text
    assert "only what the synced tables link to" in found["accounts"].text
    assert "made by the first sync" in found["database"].text


def test_after_a_sync_it_says_what_the_next_would_ask(world: World) -> None:
    world.sync()

    found = check(world)

    assert "what changed since 2024-01-01T00:00:00Z" in found["vin_candidates"].text
    assert found["vin_candidates"].details["rows"] == 12
    assert "MB" in found["database"].text


def test_an_unknown_entity_set_is_a_failure_and_the_others_are_checked(world: World) -> None:
    found = check(world, entities=[EntityConfig("vin_typos"), *ENTITIES])

    assert found["vin_typos"].result == "failure"
    assert "404" in found["vin_typos"].text
    assert found["vin_candidates"].result == "ok"


def test_a_missing_privilege_is_named(make_world: Any) -> None:
    world: World = make_world([replace(TABLES[0], privilege_missing=True), *TABLES[1:]])
    fill(world.emulator)

    found = check(world)

    assert found["vin_candidates"].result == "failure"
    assert "prvRead" in found["vin_candidates"].text


def test_drift_is_a_warning(world: World) -> None:
    world.sync()
    world.emulator.add_column("vin_candidates", Column("vin_new", "String"))

    found = check(world)

    assert found["vin_candidates"].result == "warning"
    assert "new column" in found["vin_candidates"].text


def test_a_table_without_metadata_and_records_is_a_warning(make_world: Any) -> None:
    hidden = Table("vin_hidden", "vin_hiddens", "vin_hiddenid", [], in_metadata=False)
    world: World = make_world([hidden])

    found = check(world, entities=[EntityConfig("vin_hiddens")])

    assert found["vin_hiddens"].result == "warning"


def test_metadata_that_may_not_be_read_is_a_warning(world: World) -> None:
    world.emulator.fault(Fault("status", match="EntityDefinitions", status=403, times=9))

    found = check(world)

    assert found["metadata"].result == "warning"
    assert found["vin_candidates"].result == "ok"
    assert found["vin_candidates"].details["source"] == "sample"


def test_a_clock_that_is_off_is_a_warning(world: World) -> None:
    world.emulator.clock.advance(600)

    found = check(world)

    assert found["clock"].result == "warning"
    assert "behind the service" in found["clock"].text


def test_a_database_in_use_is_a_warning(world: World) -> None:
    world.sync()

    with hold(world.db_path, world.emulator.clock.now()):
        found = check(world)

    assert found["database"].result == "warning"
    assert "in use by process" in found["database"].text


def test_a_wrong_secret_ends_it(world: World) -> None:
    config = world.config(client_secret="wrong-secret-value")

    with pytest.raises(AuthError, match="AADSTS7000215"):
        run_check(config, ENTITIES, (), Redactor())


def test_a_damaged_lock_ends_it(world: World) -> None:
    world.sync()
    world.schema_path.write_text("{", encoding="utf-8")

    with pytest.raises(ConfigError, match="damaged"):
        check(world)


def test_only_the_named_entities_are_checked(world: World) -> None:
    found = check(world, "vin_products")

    assert set(found) == {"sign-in", "clock", "database", "vin_products"}


def test_the_lines_count_what_is_wrong() -> None:
    findings = [
        Finding("sign-in", "ok", "fine"),
        Finding("accounts", "failure", "403"),
        Finding("contacts", "warning", "drift"),
    ]

    lines = format_findings(findings)

    assert lines[1] == "failure  accounts  403"
    assert lines[-1] == "1 failures, 1 warnings"
    assert to_document(findings)["ok"] is False
