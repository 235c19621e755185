"""``verify``: compare the database with Dataverse, and show the differences."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from dataverse_sync.commands.console import FAILED, OK, load, show
from dataverse_sync.commands.options import CONSOLE, PLACES, Options, add_shared
from dataverse_sync.redaction import Redactor
from dataverse_sync.sync.verification import Verification, run_verify

EXAMPLES = 5


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)
    add_shared(parser, *PLACES, "--entity")
    parser.add_argument(
        "--repair", action="store_true", help="fetch and remove exactly what differs"
    )
    add_shared(parser, "--allow-deletes", "--workers", "--json", *CONSOLE)


def run(options: Options, redactor: Redactor) -> int:
    config, entities = load(options, redactor, workers=options.workers)
    found = run_verify(
        config,
        entities,
        only=options.entity,
        repair=options.repair,
        allow_deletes=options.allow_deletes,
        redactor=redactor,
    )
    show(options, to_document(found), lambda: format_verification(found), ok=found.ok)
    return OK if found.ok else FAILED


def to_document(verification: Verification) -> dict[str, Any]:
    """The differences as one JSON document."""
    return {
        "ok": verification.ok,
        "integrity": verification.integrity,
        "entities": [
            {**asdict(entity), "differences": entity.differences, "ok": entity.ok}
            for entity in verification.entities
        ],
    }


def format_verification(verification: Verification) -> list[str]:
    """The differences, line by line, with examples."""
    lines = []
    for entity in verification.entities:
        if entity.error is not None:
            lines.append(f"failure  {entity.error}")
            continue
        kinds = {
            "missing": entity.missing,
            "extra": entity.extra,
            "stale": entity.stale,
            "altered": entity.altered,
            "unlinked": entity.unlinked,
        }
        told = [f"{len(ids)} {kind}" for kind, ids in kinds.items() if ids]
        word = "ok" if entity.ok else "differs"
        text = ", ".join(told) or "the same"
        if entity.repaired:
            text += f"; {entity.repaired} repaired"
        if entity.changed_meanwhile:
            text += f"; {entity.changed_meanwhile} changed meanwhile"
        lines.append(f"{word:<7}  {entity.entity}: {entity.rows} rows, {text}")
        for kind, ids in kinds.items():
            if ids:
                more = f" and {len(ids) - EXAMPLES} more" if len(ids) > EXAMPLES else ""
                lines.append(f"           {kind}: {', '.join(ids[:EXAMPLES])}{more}")
        for where, count in entity.dangling.items():
            lines.append(f"           {count} ids in {where} that Dataverse does not return")
    lines.append("")
    lines.append(f"SQLite's integrity check: {verification.integrity}")
    differ = sum(not entity.ok for entity in verification.entities)
    agree = len(verification.entities) - differ
    lines.append(f"{agree} {'table agrees' if agree == 1 else 'tables agree'}, {differ} do not")
    return lines
