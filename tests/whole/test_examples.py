"""The examples of the documentation, run unchanged against an emulated environment."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import World

from dataverse_sync.emulator import Fault

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"


def settings_of(world: World) -> dict[str, str]:
    return {**world.settings(), "SQLITE_DB_PATH": str(world.db_path)}


# The plain script


def run_script(world: World, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(EXAMPLES / "sync_once.py")],
        cwd=world.folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **settings_of(world), **changes},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


def test_the_script_copies_the_tables(world: World) -> None:
    done = run_script(world)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "13 added, 0 updated, 0 deleted\n"
    assert world.is_mirror("vin_candidates")
    assert world.query("SELECT name FROM accounts") == [("Litware",)]


def test_the_script_tells_what_failed(world: World) -> None:
    world.emulator.control.fault(Fault("status", match="/vin_candidates", status=403, times=99))

    done = run_script(world)

    assert done.returncode == 1
    assert "vin_candidates failed: vin_candidates, page 1: the service answered 403" in done.stderr


def test_script_reports_why_run_ended(world: World) -> None:
    done = run_script(world, DATAVERSE_CLIENT_SECRET="a-wrong-secret-value")

    assert done.returncode == 1
    assert "the run ended: Sign-in was refused" in done.stderr
    assert "a-wrong-secret-value" not in done.stderr


# The Airflow task, with a stand-in for Airflow, and with Airflow itself


def load_dag() -> ModuleType:
    spec = importlib.util.spec_from_file_location("airflow_dag", EXAMPLES / "airflow_dag.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def set_settings(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in settings_of(world).items():
        monkeypatch.setenv(name, value)


def check_task(world: World, sync: Callable[[], dict[str, int]]) -> None:
    """Check that the task returns its counts, then finds no change, and raises on a failure."""
    assert sync() == {"fetched": 13, "added": 13, "updated": 0, "unchanged": 0, "deleted": 0}
    assert world.is_mirror("vin_candidates")
    assert world.db_path.with_name("schema.json").exists()
    assert sync()["fetched"] == 0
    world.emulator.remove_table("vin_candidates")
    with pytest.raises(RuntimeError, match="vin_candidates: "):
        sync()


def test_the_airflow_task_syncs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, Any] = {}

    def task(**_: Any) -> Callable[[Any], Any]:
        def decorate(function: Any) -> Any:
            found["sync"] = function
            return lambda: None

        return decorate

    sdk = ModuleType("airflow.sdk")
    sdk.dag = lambda **options: found.update(options) or (lambda function: function)  # type: ignore[attr-defined]
    sdk.task = task  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "airflow", ModuleType("airflow"))
    monkeypatch.setitem(sys.modules, "airflow.sdk", sdk)
    set_settings(world, monkeypatch)

    load_dag()

    assert found["max_active_runs"] == 1
    check_task(world, found["sync"])


def test_airflow_takes_the_dag(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "airflow"))
    monkeypatch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
    pytest.importorskip("airflow")
    set_settings(world, monkeypatch)

    module = load_dag()
    dag = module.dataverse_to_sqlite()

    assert dag.dag_id == "dataverse_to_sqlite"
    assert dag.max_active_runs == 1
    assert not dag.catchup
    (sync,) = dag.tasks
    assert (sync.task_id, sync.retries) == ("sync", 3)
    check_task(world, sync.python_callable)
