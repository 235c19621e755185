"""Say what the database knows: state, bookmark, rows, last success and last run, per entity.

Reads the file alone, also while a sync writes it; asks nobody.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from dataverse_sync.commands.console import FAILED, OK, find_database, open_log, show
from dataverse_sync.commands.options import CONSOLE, PLACES, Options, add_shared, argument
from dataverse_sync.config import load_entities
from dataverse_sync.moments import to_text
from dataverse_sync.redaction import Redactor
from dataverse_sync.show.text import format_age, format_failures, format_table
from dataverse_sync.store.database import open_target
from dataverse_sync.store.history import LogEntry, load_history

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)
    add_shared(parser, *PLACES)
    parser.add_argument(
        "--max-age",
        type=argument(parse_age),
        metavar="AGE",
        help="exit 1 when the last success of an entity is older, such as 26h",
    )
    parser.add_argument(
        "--max-proof-age",
        type=argument(parse_age),
        metavar="AGE",
        help="exit 1 when an entity was last proven by verify longer ago, such as 8d",
    )
    add_shared(parser, "--json", *CONSOLE)


def run(options: Options, redactor: Redactor) -> int:
    open_log(options, redactor)
    max_age: timedelta | None = options.max_age
    max_proof_age: timedelta | None = options.max_proof_age
    path = find_database(options)
    configured = None
    if options.config.exists():
        configured = [entity.name for entity in load_entities(options.config)]
    found = load_status(path, datetime.now(UTC), configured)
    if found is None:
        message = f"{path}: there is no database yet; the first sync makes it"
        show(options, {"database": None, "entities": []}, lambda: [message], ok=True)
        return OK if max_age is None and max_proof_age is None else FAILED
    document = to_document(found)
    problems = []
    if max_age is not None:
        document["too_old"] = [entity.entity for entity in find_too_old(found, max_age)]
        if document["too_old"]:
            problems.append(
                f"no success within --max-age: {', '.join(document['too_old'])}. "
                "Look into the job's log, or run it now: python -m dataverse_sync sync"
            )
    if max_proof_age is not None:
        document["unproven"] = [entity.entity for entity in find_unproven(found, max_proof_age)]
        if document["unproven"]:
            problems.append(
                f"not proven within --max-proof-age: {', '.join(document['unproven'])}. "
                "Run: python -m dataverse_sync verify"
            )
    if not found.entities and (max_age is not None or max_proof_age is not None):
        problems.append(f"{path}: it was never synced")
    done = all(entity.state == "completed" for entity in found.entities if entity.configured)
    show(options, document, lambda: format_status(found), ok=done)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return FAILED if problems else OK


@dataclass(frozen=True, slots=True)
class EntityStatus:
    entity: str
    state: str
    rows: int
    bookmark: str | None
    last_success: str | None
    age_s: float | None  # since the last success; None if there was none
    error: str | None
    configured: bool
    last_run: LogEntry | None
    last_proven: str | None = None  # when a verify last found the table to be the same
    proof_age_s: float | None = None


@dataclass(frozen=True, slots=True)
class Status:
    database: str
    running: str | None  # the run that holds the database now
    entities: tuple[EntityStatus, ...]


def load_status(
    db_path: Path, now: datetime, configured: Collection[str] | None = None
) -> Status | None:
    """Read the state of every entity; None if there is no database yet.

    Without the names of the configured entities, all are taken for configured.
    """
    if not open_target(db_path).exists():
        return None
    history = load_history(db_path)
    entities = []
    for entity in history.entities:
        success, proven = entity.last_success_at, entity.proven_at
        status = EntityStatus(
            entity=entity.name,
            state=entity.state,
            rows=entity.rows,
            bookmark=entity.bookmark,
            last_success=to_text(success) if success else None,
            age_s=(now - success).total_seconds() if success else None,
            error=entity.error,
            configured=configured is None or entity.name in configured,
            last_run=entity.last,
            last_proven=to_text(proven) if proven else None,
            proof_age_s=(now - proven).total_seconds() if proven else None,
        )
        entities.append(status)
    return Status(str(db_path), history.holder, tuple(entities))


def parse_age(text: str) -> timedelta:
    """Read a duration such as ``90m``, ``26h`` or ``2d``; ValueError if it is not one."""
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)([smhd])", text)
    if match is None:
        raise ValueError(f"{text!r} is not a duration such as 90m, 26h or 2d")
    return timedelta(seconds=float(match[1]) * _UNITS_S[match[2]])


def find_too_old(status: Status, max_age: timedelta) -> Sequence[EntityStatus]:
    """Find configured entities whose last success is older than ``max_age``, or missing."""
    limit_s = max_age.total_seconds()
    configured = (entity for entity in status.entities if entity.configured)
    return [one for one in configured if one.age_s is None or one.age_s > limit_s]


def find_unproven(status: Status, max_age: timedelta) -> Sequence[EntityStatus]:
    """Find configured entities whose last proof is older than ``max_age``, or missing."""
    limit_s = max_age.total_seconds()
    configured = (entity for entity in status.entities if entity.configured)
    return [one for one in configured if one.proof_age_s is None or one.proof_age_s > limit_s]


def to_document(status: Status) -> dict[str, Any]:
    """The status as one JSON document."""
    document = asdict(status)
    for entity in document["entities"]:
        if run := entity["last_run"]:
            ended_at = run["finished_at"]
            entity["last_run"] = {
                "run_id": run["run_id"],
                "started_at": to_text(run["started_at"]),
                "finished_at": ended_at and to_text(ended_at),
                "status": run["status"],
                **{f"records_{kind}": number for kind, number in run["counts"].items()},
                "requests": run["requests"],
                "error": run["error"],
            }
    return document


def format_status(status: Status) -> list[str]:
    """Lay out the status for a person, line by line."""
    heads = ("entity", "rows", "age", "proven", "bookmark", "last run", "state")
    rows = [
        (
            entity.entity if entity.configured else f"{entity.entity} (not configured)",
            str(entity.rows),
            format_age(entity.age_s),
            format_age(entity.proof_age_s),
            entity.bookmark or "-",
            to_text(entity.last_run.started_at)[:19] if entity.last_run else "-",
            entity.state,
        )
        for entity in status.entities
    ]
    lines = [f"{status.database}:"]
    if status.running:
        lines.append(f"A run is under way: {status.running}.")
    lines += format_table(heads, rows) if rows else ["Nothing was synced into it yet."]
    lines += format_failures(entity.error for entity in status.entities if entity.error)
    configured = [entity for entity in status.entities if entity.configured]
    if configured:
        ages = [entity.age_s for entity in configured]
        oldest = None if None in ages else max(age for age in ages if age is not None)
        done = sum(entity.state == "completed" for entity in configured)
        lines += ["", f"{done} of {len(ages)} entities completed, oldest: {format_age(oldest)}"]
    return lines
