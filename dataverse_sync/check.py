"""See whether a sync would work, table by table; writes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from dataverse_sync import database, discovery, odata, run_lock
from dataverse_sync import sync_state as states
from dataverse_sync.config import Config, select_entities
from dataverse_sync.environment import Environment, open_environment
from dataverse_sync.errors import EntityError
from dataverse_sync.lock_store import load_fitting_lock
from dataverse_sync.metadata import diff_entity
from dataverse_sync.model import Drift, Entity, EntityConfig, PageRequest
from dataverse_sync.reads import plan_read
from dataverse_sync.redaction import Redactor
from dataverse_sync.sync_state import EntityState

CLOCK_TOLERANCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str  # an entity set, or sign-in, clock, database
    result: Literal["ok", "warning", "failure"]
    text: str
    details: dict[str, Any] = field(default_factory=dict)


def run_check(
    config: Config,
    entities: Sequence[EntityConfig],
    only: Sequence[str],
    redactor: Redactor,
) -> list[Finding]:
    """Sign in, reach every selected entity, and say what a sync would do with it.

    Raises:
        ConfigError: A setting, the database or the schema lock is not usable.
        AuthError: The sign-in was refused, or its host cannot be reached.
        UnreachableError: The API did not answer at all.
    """
    selected = select_entities(entities, only)
    database.check_file(config.db_path)
    lock = load_fitting_lock(config).lock
    with open_environment(config, redactor) as environment:
        findings = [_check_sign_in(config, environment), *_check_clock(environment)]
        findings.append(_check_database(config))
        names = [entity.name for entity in selected]
        live = discovery.read_metadata(environment.client, names)
        if live.metadata_error is not None:
            findings.append(
                Finding("metadata", "warning", f"cannot be read: {live.metadata_error}")
            )
        known = {**live.entities, **{name: lock[name] for name in names if name in lock}}
        sampled = discovery.read_samples(
            environment.client, environment.pool, [name for name in names if name not in known]
        )
        known.update(sampled.entities)
        saved = _load_states(config, names)

        def check(entity: EntityConfig) -> Finding:
            name = entity.name
            if name in sampled.failures:
                return Finding(name, "failure", str(sampled.failures[name]))
            if name in sampled.empty:
                return Finding(name, "warning", "empty and not in the metadata: left pending")
            drift = []
            if name in lock and name in live.entities:
                drift = diff_entity(lock[name], live.entities[name])
            return _reach(config, environment, entity, known[name], saved[name], drift)

        return findings + list(environment.pool.map(check, selected))


def _check_sign_in(config: Config, environment: Environment) -> Finding:
    tenant = environment.auth.tenant_id
    return Finding("sign-in", "ok", f"{config.api_origin}, tenant {tenant}", {"tenant": tenant})


def _check_clock(environment: Environment) -> list[Finding]:
    server = environment.auth.server_date
    if server is None:
        return []
    ahead_s = (datetime.now(UTC) - server).total_seconds()
    where = "ahead of" if ahead_s > 0 else "behind"
    text = f"this machine is {abs(ahead_s):.0f} s {where} the service"
    far = abs(ahead_s) > CLOCK_TOLERANCE_S
    return [Finding("clock", "warning" if far else "ok", text, {"ahead_s": round(ahead_s)})]


def _check_database(config: Config) -> Finding:
    path = config.db_path
    if run_lock.is_held(path):
        return Finding("database", "warning", f"{path}: in use by {run_lock.describe_holder(path)}")
    if not path.exists():
        return Finding("database", "ok", f"{path}: made by the first sync")
    return Finding("database", "ok", f"{path}: {path.stat().st_size / 1e6:.1f} MB")


def _load_states(config: Config, names: Sequence[str]) -> dict[str, EntityState]:
    path = config.db_path
    if not path.exists() or not path.stat().st_size:
        return dict.fromkeys(names, EntityState())
    with database.open_reader(path).connect() as connection:
        if states.STATE.name not in database.read_tables(connection):
            return dict.fromkeys(names, EntityState())
        return {name: states.load_state(connection, name) for name in names}


def _reach(
    config: Config,
    environment: Environment,
    entity: EntityConfig,
    known: Entity,
    saved: EntityState,
    drift: Sequence[Drift],
) -> Finding:
    """Ask for one key of the entity set: enough to see whether it may be read."""
    url = odata.build_url(config.api_url, entity.name, select=(known.key,), top=1)
    try:
        page = environment.client.get_page(PageRequest(entity.name, url, top=True))
    except EntityError as error:
        return Finding(entity.name, "failure", str(error))
    environment.client.release(page)
    plan = plan_read(saved, known.has("modifiedon"), False, config.api_url)
    how = "only what the synced tables link to" if entity.filtered else plan.why
    notes = [str(item) for item in drift]
    text = f"key {known.key}, {len(known.columns)} columns; {how}"
    return Finding(
        entity.name,
        "warning" if notes else "ok",
        "; ".join([text, *notes]),
        {
            "key": known.key,
            "columns": len(known.columns),
            "source": known.source,
            "modifiedon": known.has("modifiedon"),
            "change_tracking": known.change_tracking,
            "filtered": entity.filtered,
            "empty": not page.records,
            "rows": saved.records_count,
            "drift": notes,
        },
    )


def format_findings(findings: Sequence[Finding]) -> list[str]:
    """One line each, what went wrong last to be read first."""
    width = max(len(finding.what) for finding in findings)
    lines = [
        f"{finding.result:<7}  {finding.what.ljust(width)}  {finding.text}" for finding in findings
    ]
    failures = sum(finding.result == "failure" for finding in findings)
    warnings = sum(finding.result == "warning" for finding in findings)
    return [*lines, "", f"{failures} failures, {warnings} warnings"]


def to_document(findings: Sequence[Finding]) -> dict[str, Any]:
    """The findings as one JSON document."""
    failed = any(finding.result == "failure" for finding in findings)
    return {"ok": not failed, "findings": [asdict(finding) for finding in findings]}
