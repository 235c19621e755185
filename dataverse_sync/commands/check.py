"""``check``: see whether a sync would work, table by table; nothing is written."""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from dataverse_sync.commands.console import FAILED, OK, load, show
from dataverse_sync.commands.findings import Finding, format_findings, to_document
from dataverse_sync.commands.oddities import find_oddities
from dataverse_sync.commands.options import CONSOLE, PLACES, Options, add_shared
from dataverse_sync.config import Config, select_entities
from dataverse_sync.dataverse import odata
from dataverse_sync.dataverse.session import Session, open_session, wait_for
from dataverse_sync.errors import EntityError, RequestError
from dataverse_sync.files import find_existing_folder
from dataverse_sync.model import Drift, Entity, EntityConfig, Page, PageRequest
from dataverse_sync.redaction import Redactor
from dataverse_sync.schema import discovery
from dataverse_sync.schema.discovery import infer_entity
from dataverse_sync.schema.lock import diff_entity
from dataverse_sync.show.text import format_size
from dataverse_sync.store import database
from dataverse_sync.store.environment import Environment
from dataverse_sync.store.history import History, load_history
from dataverse_sync.store.schema_lock import LockedSchema, load_schema
from dataverse_sync.store.sync_state import DIED, EntityState
from dataverse_sync.sync.asking_rights import SINGLES_OF_A_CHECK, ask_rights
from dataverse_sync.sync.identity import describe_other, get_environment, judge
from dataverse_sync.sync.plan import plan_read
from dataverse_sync.sync.rights import HIDES, AccessRights, describe_limit, describe_loss
from dataverse_sync.sync.ways import parse_way

CLOCK_TOLERANCE_S = 60.0
DISK_PER_JSON = 2.0  # bytes of database for a byte of JSON: 1.6 for wide records, 2.4 for narrow
DISK_MARGIN = 1.5  # of what is expected: the estimate is one, and a sync needs room to work in
_PRIVILEGE = re.compile(r"\bprv[A-Z]\w+")
_REQUEST_ID = re.compile(r" \(request [^()]*\)$")
_NAMED = 3  # differences of a schema that are named; the command that shows the others is told


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)
    add_shared(parser, *PLACES, "--entity", "--workers", "--json", *CONSOLE)


def run(options: Options, redactor: Redactor) -> int:
    config, entities = load(options, redactor, workers=options.workers)
    findings = run_check(config, entities, options.entity, redactor)
    document = to_document(findings)
    calm = all(finding.result == "ok" for finding in findings)
    show(options, document, lambda: format_findings(findings), ok=calm)
    return OK if document["ok"] else FAILED


def run_check(
    config: Config, entities: Sequence[EntityConfig], only: Sequence[str], redactor: Redactor
) -> list[Finding]:
    """Sign in, ask each selected entity for a record, and tell what a sync would read.

    Raises:
        ConfigError: A setting, the database or the schema lock is not usable.
        AuthError: The sign-in was refused, or its host cannot be reached.
        UnreachableError: The API did not answer at all.
    """
    selected = select_entities(entities, only)
    target = database.open_target(config.db_path)
    target.check()
    locked = load_schema(target, config.schema_path)
    names = [entity.name for entity in selected]
    with open_session(config, redactor) as session:
        session.sign_in()
        environment = session.pool.submit(get_environment, session)
        asked = session.pool.submit(discovery.read_metadata, session.client, names)
        pending = ask_rights(session, environment, asked, singles=SINGLES_OF_A_CHECK)
        organization = _check_environment(target.name, locked.environment, wait_for(environment))
        history = load_history(config.db_path)
        live, access = wait_for(asked), pending.wait()
        reached = _check_entities(session, selected, locked.lock, live, history, access)
    return [
        _check_sign_in(config, session),
        *_check_clock(session),
        _check_database(config, history, names),
        _check_disk(config, reached),
        _check_schema(config, locked, [entity.name for entity in entities]),
        *organization,
        *_check_metadata(live),
        *_check_rights(access),
        *_check_address(config, reached),
        *reached,
    ]


def _check_entities(
    session: Session,
    selected: Sequence[EntityConfig],
    lock: Mapping[str, Entity],
    live: discovery.Discovery,
    history: History,
    access: AccessRights,
) -> list[Finding]:
    names = [entity.name for entity in selected]
    known = {**live.entities, **{name: lock[name] for name in names if name in lock}}
    unknown = [name for name in names if name not in known and name not in live.failures]
    sampled = discovery.read_samples(session.client, session.pool, unknown)
    known.update(sampled.entities)
    counted = _get_counts(session, known.values())
    saved = {entity.name: entity.saved for entity in history.entities}

    def check(entity: EntityConfig) -> Finding:
        name = entity.name
        if name not in known and (failure := {**live.failures, **sampled.failures}.get(name)):
            return _describe_failure(name, failure)
        if name in sampled.empty:
            text = "empty and not in the metadata: left pending until it has a record"
            return Finding(name, "warning", text)
        subject = _Subject(
            entity,
            known[name],
            saved.get(name, EntityState()),
            lock.get(name),
            live.entities.get(name),
            counted.get(name),
            access,
        )
        return _check_entity(subject, session)

    return list(session.pool.map(check, selected))


def _check_sign_in(config: Config, session: Session) -> Finding:
    tenant = session.auth.tenant_id
    return Finding("sign-in", "ok", f"{config.api_origin}, tenant {tenant}", {"tenant": tenant})


def _check_clock(session: Session) -> list[Finding]:
    server = session.auth.server_date
    if server is None:
        return []
    ahead_s = (datetime.now(UTC) - server).total_seconds()
    where = "ahead of" if ahead_s > 0 else "behind"
    text = f"this machine is {abs(ahead_s):.0f} s {where} the service"
    if abs(ahead_s) <= CLOCK_TOLERANCE_S:
        return [Finding("clock", "ok", text, {"ahead_s": round(ahead_s)})]
    text += ": set it; bookmarks go by the service's clock, but the times in the log do not"
    return [Finding("clock", "warning", text, {"ahead_s": round(ahead_s)})]


def _check_database(config: Config, history: History, names: Sequence[str]) -> Finding:
    path = config.db_path
    if history.holder:
        text = f"{path}: in use by {history.holder}; a sync would end with exit status 4 until then"
        return Finding("database", "warning", text, {"in_use_by": history.holder})
    if not path.exists():
        return Finding("database", "ok", f"{path}: made by the first sync", {"bytes": 0})
    size = path.stat().st_size
    entities = [entity for entity in history.entities if entity.name in names]
    rows = sum(entity.rows for entity in entities)
    parts = [format_size(size), f"{rows:,} rows", "no run is under way"]
    failed = [entity.name for entity in entities if entity.state == "failed"]
    killed = [entity.name for entity in entities if entity.is_killed]
    if killed:
        parts.append(f"{DIED}, the next run resumes {', '.join(killed)}")
    if failed:
        parts.append(f"failed in the last run: {', '.join(failed)} (see: status)")
    details = {"bytes": size, "rows": rows, "unfinished": killed, "failed": failed}
    return Finding("database", "ok", f"{path}: {', '.join(parts)}", details)


def _check_disk(config: Config, reached: Sequence[Finding]) -> Finding:
    """Compare the free space with the size of the rows expected, by one record of each table."""
    folder = find_existing_folder(config.db_path.parent)
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Finding("disk", "warning", f"{folder}: its free space is not known ({error})")
    more, unknown = 0.0, 0
    for finding in reached:
        expected, size = finding.details.get("rows_expected"), finding.details.get("record_bytes")
        if expected is None or size is None:
            unknown += 1
        else:
            more += max(0, expected - finding.details["rows"]) * size * DISK_PER_JSON
    text = f"{folder}: {format_size(free)} free, about {format_size(more)} more expected"
    if unknown:
        text += f", {unknown} of {len(reached)} tables not counted"
    details = {"free_bytes": free, "expected_bytes": round(more), "tables_not_counted": unknown}
    if free < more * DISK_MARGIN:
        text += ": free some space, or name a database on another disk with --db"
        return Finding("disk", "warning", text, details)
    return Finding("disk", "ok", text, details)


def _check_schema(config: Config, locked: LockedSchema, configured: Sequence[str]) -> Finding:
    path = config.schema_path
    if not locked.lock:
        return Finding("schema", "ok", f"{path}: made by the first sync", {"entities": 0})
    removed = [name for name in locked.lock if name not in configured]
    text = f"{path}: {len(locked.lock)} entities locked"
    if not locked.is_file_current:
        text += "; the file is missing or outdated, the next sync writes it again"
    if removed:
        text += f"; no longer configured, their tables stay: {', '.join(removed)}"
    details = {"entities": len(locked.lock), "not_configured": removed}
    return Finding("schema", "ok", text, details)


def _check_address(config: Config, reached: Sequence[Finding]) -> list[Finding]:
    """Warn if the service answers under another name: its next links would be refused."""
    for finding in reached:
        if other := finding.details.get("api_url"):
            text = (
                f"the service calls itself {other}, not {config.api_url}: its links lead there, "
                "and tables of several pages would fail"
            )
            hint = odata.suggest_api_url(other, config.api_url)
            return [Finding("address", "warning", text, {"api_url": other}, hint=hint)]
    return []


def _check_environment(
    database: str, recorded: Environment | None, found: Environment
) -> list[Finding]:
    if recorded is None or judge(recorded, found) != "other":
        return []
    error = describe_other(recorded, found, database)
    return [Finding("environment", "failure", error.message, hint=error.hint)]


def _check_rights(access: AccessRights) -> list[Finding]:
    if access.unknown.keys() <= {"metadata"}:  # which has a line of its own
        return []
    hint = "Let the app call the functions that are named, or ask its administrator what it reads."
    return [Finding("rights", "warning", access.describe_unknown(), hint=hint)]


def _check_metadata(live: discovery.Discovery) -> list[Finding]:
    if live.metadata_error is None:
        return []
    error = live.metadata_error
    text = f"cannot be read: {_shorten(error)}; without it, " + (
        "keys and types are guessed from a record of each table, and changes of the schema are "
        "seen late"
        if live.refused
        else "new tables wait, and changes of the schema are seen late"
    )
    return [Finding("metadata", "warning", text, {"error": str(error)}, hint=error.hint)]


@dataclass(frozen=True, slots=True)
class _Subject:
    """An entity, and what is known of it before a record is asked for."""

    entity: EntityConfig
    known: Entity
    saved: EntityState
    locked: Entity | None
    live: Entity | None
    expected: int | None  # rows that the service counts; None: not known
    access: AccessRights

    def find_drift(self, page: Page) -> list[Drift]:
        if self.locked is None:
            return []
        if self.live is not None:
            return diff_entity(self.locked, self.live)
        if self.locked.source != "sample" or not page.records:
            return []
        try:
            record = json.loads(bytes(page.records[0]))
        except ValueError:  # a number with 5,000 digits: the sync will say what it can do with it
            return []
        return diff_entity(self.locked, infer_entity(self.locked.name, record))


def _get_counts(session: Session, entities: Iterable[Entity]) -> dict[str, int]:
    """About how many records each entity set has; nothing if the service does not count them."""
    logical = {entity.logical_name: entity.name for entity in entities if entity.logical_name}
    if not logical:
        return {}
    try:
        counts = session.client.get_counts(list(logical))
    except EntityError:
        return {}
    return {name: counts[known] for known, name in logical.items() if known in counts}


def _check_entity(subject: _Subject, session: Session) -> Finding:
    """Ask for one record, to see whether the table may be read and how large a record is."""
    entity, known, saved = subject.entity, subject.known, subject.saved
    api_url = session.client.api_url
    url = odata.build_url(api_url, entity.name, top=1)
    try:
        page = session.client.get_page(PageRequest(entity.name, url, top=True))
        session.client.release(page)
        drift = [str(item) for item in subject.find_drift(page)]
        live = subject.live or known
        odd = find_oddities(session.client, live, saved, is_filtered=entity.filtered)
    except EntityError as error:
        return _describe_failure(entity.name, error)
    change = subject.access.compare(known, saved.rights)
    if change.lost:
        lost = describe_loss(entity.name, change)
        text = lost.message.removeprefix(f"{entity.name}: ")
        return Finding(entity.name, "failure", text, {"error": str(lost)}, hint=lost.hint)
    limits = subject.access.find_limits([live])
    odd = [*(describe_limit(limit) for limit in limits), *odd]
    if change.gained:
        odd.append(f"the next sync reads all of it, since more may be read: {change.gained[0]}")
    other = odata.find_other_api_url(page.context, api_url)
    cells = [*_describe_table(subject, api_url), *odd]
    if drift:
        more = f" and {len(drift) - _NAMED} more" if len(drift) > _NAMED else ""
        cells.append(f"schema drift: {'; '.join(drift[:_NAMED])}{more} (see: schema diff)")
    return Finding(
        entity.name,
        "warning" if drift or any(limit.kind in HIDES for limit in limits) else "ok",
        ", ".join(cells),
        {
            "key": known.key,
            "columns": len(known.columns),
            "source": known.source,
            "modifiedon": known.has("modifiedon"),
            "change_tracking": known.change_tracking,
            "filtered": entity.filtered,
            "empty": not page.records,
            "rows": saved.records_count,
            # Of a filtered table only a part is wanted, and nobody has counted that.
            "rows_expected": None if entity.filtered else subject.expected,
            "record_bytes": len(bytes(page.records[0])) if page.records else 0,
            "drift": drift,
            "kind": live.kind,
            "oddities": odd,
            **({"api_url": other} if other else {}),
        },
        tuple(cells),
    )


def _describe_table(subject: _Subject, api_url: str) -> list[str]:
    """How many rows, how the next sync would read it, and what is known of its columns."""
    entity, known, saved = subject.entity, subject.known, subject.saved
    plan = plan_read(saved, known, False, api_url, parse_way(saved.asked_how, datetime.now(UTC)))
    how = f"all of it ({plan.why})" if plan.kind == "full" else plan.why
    return [
        _count_rows(entity, saved.records_count, subject.expected),
        "only what the synced tables link to" if entity.filtered else how,
        f"{len(known.columns)} columns",
        "modifiedon" if known.has("modifiedon") else "no modifiedon",
        "change tracking" if known.change_tracking else "no change tracking",
        f"key {known.key}" + ("" if known.source == "metadata" else f" ({known.key_found})"),
    ]


def _count_rows(entity: EntityConfig, here: int, expected: int | None) -> str:
    if entity.filtered or (here and expected is None):
        return f"{here:,} rows"
    if expected is None:
        return "rows unknown"
    return f"{here:,} of about {expected:,} rows" if here else f"about {expected:,} rows"


def _describe_failure(name: str, error: EntityError) -> Finding:
    """Explain why an entity cannot be read, with the name of a missing privilege."""
    missing = _PRIVILEGE.search(str(error))
    if isinstance(error, RequestError) and error.status == 403 and missing:
        text = (
            f"the application user lacks the privilege {missing[0]} (403): give it a role that has "
            "it, for the whole organization"
        )
        details = {"missing_privilege": missing[0], "error": str(error)}
        return Finding(name, "failure", text, details)
    return Finding(name, "failure", _shorten(error), {"error": str(error)}, hint=error.hint)


def _shorten(error: EntityError) -> str:
    """The message of an error without the request, which its line names, and the request's id."""
    asked = error.request if isinstance(error, RequestError) else None
    answered = error.message.removeprefix(f"{asked}: the service answered ")
    return _REQUEST_ID.sub("", answered).rstrip(". ")
