"""One database, one environment: another organization is refused, a restored one compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from conftest import CANDIDATES, CANDIDATES_ONLY, ENTITIES, PRODUCTS, insert

from dataverse_sync import EntityConfig
from dataverse_sync.emulator import Fault
from dataverse_sync.errors import ConfigError, UnreachableError
from dataverse_sync.redaction import Redactor
from dataverse_sync.store.environment import Environment
from dataverse_sync.sync.identity import judge
from dataverse_sync.sync.verification import VerifyOptions, run_verify

HERE, THERE = "11111111-2222-4333-8444-555555555555", "99999999-2222-4333-8444-555555555555"
API, OTHER_API = "https://a.example/api/data/v9.2/", "https://b.example/api/data/v9.2/"
BOTH = [EntityConfig("vin_candidates"), EntityConfig("vin_products")]


@pytest.mark.parametrize(
    ("recorded", "found", "verdict"),
    [
        (None, Environment(HERE, API), "new"),
        (None, Environment(None, API), "new"),
        (Environment(HERE, API), Environment(HERE, API), "same"),
        (Environment(HERE, API), Environment(HERE, OTHER_API), "same"),
        (Environment(HERE, API), Environment(THERE, API), "other"),
        (Environment(HERE, API), Environment(THERE, OTHER_API), "other"),
        (Environment(HERE, API), Environment(None, API), "same"),
        (Environment(None, API), Environment(HERE, API), "same"),
        (Environment(None, API), Environment(None, API), "same"),
        (Environment(None, API), Environment(None, OTHER_API), "moved"),
        (Environment(HERE, API), Environment(None, OTHER_API), "moved"),
        (Environment(None, API), Environment(HERE, OTHER_API), "moved"),
    ],
)
def test_environment_is_told_by_organization(
    recorded: Environment | None, found: Environment, verdict: str
) -> None:
    assert judge(recorded, found) == verdict


def data(world: Any) -> list[Any]:
    return [one for one in world.emulator.log if one.kind in ("data", "thin", "delta")]


def test_another_organization_is_refused(world: Any) -> None:
    world.sync()
    before = world.db_path.read_bytes()
    world.emulator.control.organization_id = THERE

    with pytest.raises(ConfigError, match="--new-environment"):
        world.sync()

    assert data(world) == []
    assert world.db_path.read_bytes() == before
    arguments: dict[str, Any] = {"only": (), "redactor": Redactor()}
    with pytest.raises(ConfigError, match="is organization"):
        run_verify(world.config(), ENTITIES, VerifyOptions(repair=True), **arguments)
    assert run_verify(world.config(), ENTITIES, VerifyOptions(), **arguments).ok


def test_new_environment_compares_everything(world: Any) -> None:
    world.sync()
    # A copy keeps ids, and where the same steps were taken the versions too.
    world.execute("UPDATE vin_candidates SET json_response = replace(json_response, '0', '9')")
    world.execute("UPDATE vin_products SET json_response = '{}'")
    world.execute("UPDATE accounts SET json_response = '{}'")
    world.emulator.control.organization_id = THERE

    assert world.sync(new_environment=True).ok

    assert world.is_mirror("vin_candidates", "vin_products")
    accounts = world.copy("accounts")
    assert {key: world.source("accounts")[key] for key in accounts} == accounts
    assert world.query("SELECT organization_id FROM _sync_environment") == [(THERE,)]
    assert world.sync().totals.updated == 0


def test_new_environment_keeps_the_guard(make_world: Callable[..., Any]) -> None:
    world = make_world([CANDIDATES])
    ids = insert(world.emulator, "vin_candidates", [{"vin_name": str(n)} for n in range(12)])
    world.sync(CANDIDATES_ONLY)
    world.emulator.control.organization_id = THERE
    for record_id in ids:
        world.emulator.delete("vin_candidates", record_id)

    report = world.sync(CANDIDATES_ONLY, new_environment=True)

    assert "12 of 12 rows would be removed" in report.failed[0].error
    assert len(world.copy("vin_candidates")) == 12


def test_new_environment_of_unknown_organization_is_kept(world: Any) -> None:
    world.sync()
    world.emulator.control.organization_id = None
    assert world.sync(new_environment=True).ok
    world.emulator.control.organization_id = THERE

    assert world.sync().ok
    assert world.query("SELECT organization_id FROM _sync_environment") == [(THERE,)]


def test_unknown_organization_is_said_once(world: Any, caplog: Any) -> None:
    world.emulator.control.organization_id = None

    assert world.sync().ok
    assert "the organization cannot be asked for" in caplog.text
    assert world.query("SELECT organization_id FROM _sync_environment") == [(None,)]
    caplog.clear()
    assert world.sync().ok
    assert "the organization cannot be asked for" not in caplog.text

    world.emulator.control.organization_id = HERE
    assert world.sync().ok
    assert world.query("SELECT organization_id FROM _sync_environment") == [(HERE,)]


def test_other_address_of_unknown_organization_compares_all(world: Any) -> None:
    world.emulator.control.organization_id = None
    world.sync()
    world.execute("UPDATE _sync_environment SET api_url = 'https://old.example/api/data/v9.2/'")
    world.execute("UPDATE vin_candidates SET json_response = '{}'")

    assert world.sync().ok
    assert world.is_mirror("vin_candidates")


def test_later_run_signs_in_where_the_first_was_told(world: Any) -> None:
    world.sync()
    assert [one.kind for one in world.emulator.log[:2]] == ["challenge", "token"]
    authority = world.query("SELECT authority FROM _sync_environment")
    world.emulator.log.clear()

    assert world.sync().ok

    assert [one.kind for one in world.emulator.log if one.kind in ("challenge", "token")] == [
        "token"
    ]
    assert world.query("SELECT authority FROM _sync_environment") == authority

    world.execute("UPDATE _sync_environment SET authority = replace(authority, '/', '/x')")
    assert world.sync().ok
    assert world.query("SELECT authority FROM _sync_environment") == authority


def test_environment_of_an_older_version_is_taken_up(world: Any) -> None:
    world.sync()
    query = "SELECT organization_id, api_url, recorded_at, authority FROM _sync_environment"
    recorded = world.query(query)
    world.execute("ALTER TABLE _sync_environment DROP COLUMN authority")
    world.execute("ALTER TABLE _sync_environment DROP COLUMN rights_unknown")

    assert world.sync().ok

    assert world.query(query) == recorded


def test_closed_service_ends_a_run_that_knows_where_to_sign_in(world: Any) -> None:
    world.sync()
    world.wait()
    before = world.query("SELECT * FROM _sync_state")
    closed = {"status": 503, "code": "0x8004A104", "message": "It is currently disabled."}
    world.emulator.control.fault(Fault("status", match="/api/data", times=99, **closed))

    with pytest.raises(UnreachableError, match="It is currently disabled"):
        world.sync()

    assert world.query("SELECT * FROM _sync_state") == before


@pytest.fixture
def restored(make_world: Callable[..., Any]) -> Any:
    """A world whose service forgot what happened last, as a restored backup does."""
    world = make_world([CANDIDATES, PRODUCTS])
    for name in ("vin_candidates", "vin_products"):
        insert(world.emulator, name, [{"vin_name": str(n)} for n in range(7)])
    world.sync(BOTH)
    world.wait()
    return world


def rewind(world: Any, name: str) -> None:
    """Raise the versions of the rows, as if the service had gone back behind them."""
    world.execute(f'UPDATE "{name}" SET versionnumber = versionnumber + 100000')


@pytest.mark.parametrize("name", ["vin_candidates", "vin_products"])
def test_restored_environment_is_compared_in_that_run(
    restored: Any, caplog: Any, name: str
) -> None:
    rewind(restored, name)
    for one in ("vin_candidates", "vin_products"):
        restored.execute(f"UPDATE \"{one}\" SET json_response = json_response || ' '")

    report = restored.sync(BOTH)

    assert report.ok
    assert "restored from a backup" in caplog.text
    assert restored.is_mirror("vin_candidates", "vin_products")
    assert len(restored.query("SELECT * FROM _sync_log")) == 4
    caplog.clear()
    assert restored.sync(BOTH).totals.updated == 0
    assert "restored from a backup" not in caplog.text


def test_restored_links_are_compared(world: Any, caplog: Any) -> None:
    world.sync()
    world.wait()
    rewind(world, "accounts")
    world.execute("UPDATE vin_candidates SET json_response = json_response || ' '")

    assert world.sync().ok
    assert "restored from a backup" in caplog.text
    assert world.is_mirror("vin_candidates")


def test_later_versions_are_no_restored_backup(restored: Any, caplog: Any) -> None:
    for record_id in list(restored.emulator.rows("vin_products")):
        restored.emulator.update("vin_products", record_id, {"vin_name": "again"})

    assert restored.sync(BOTH).ok
    assert "restored from a backup" not in caplog.text
