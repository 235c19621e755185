"""``verify``: compare the database with Dataverse, and show the differences."""

from __future__ import annotations

import argparse
import re
from dataclasses import asdict
from typing import Any

from dataverse_sync.commands.console import FAILED, OK, load, show
from dataverse_sync.commands.display import showing
from dataverse_sync.commands.options import CONSOLE, PLACES, Options, add_shared, argument
from dataverse_sync.errors import ConfigError
from dataverse_sync.redaction import Redactor
from dataverse_sync.sync.entity_verification import EntityFindings
from dataverse_sync.sync.verification import Verification, VerifyOptions, run_verify

EXAMPLES = 5


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)
    add_shared(parser, *PLACES, "--entity")
    parser.add_argument(
        "--values", action="store_true", help="compare every byte of the records, not only versions"
    )
    parser.add_argument(
        "--sample",
        type=argument(parse_share),
        metavar="SHARE",
        help="with --values: of a share of each table's rows, such as 5%%; each time of the next",
    )
    parser.add_argument(
        "--repair", action="store_true", help="fetch and remove exactly what differs"
    )
    add_shared(parser, "--allow-deletes", "--workers", "--json", *CONSOLE)


def parse_share(text: str) -> float:
    """Read a share such as ``5%``, in percent; ValueError if it is not one."""
    match = re.fullmatch(r"(\d{1,3}(?:\.\d{1,6})?)%", text)
    if match is None or not 0 < float(match[1]) <= 100:
        raise ValueError(f"{text!r} is not a share such as 5%")
    return float(match[1])


def run(options: Options, redactor: Redactor) -> int:
    if options.sample is not None and not options.values:
        raise ConfigError("--sample: there is nothing to take a sample of", "Give --values too.")
    config, entities = load(options, redactor, workers=options.workers)
    with showing(options) as tell:
        wanted = VerifyOptions(
            options.values, options.sample, options.repair, options.allow_deletes
        )
        found = run_verify(
            config, entities, wanted, only=options.entity, redactor=redactor, on_event=tell
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
        "limits": [asdict(limit) for limit in verification.limits],
        "limits_unknown": verification.limits_unknown or None,
    }


def format_verification(verification: Verification) -> list[str]:
    """The differences, line by line, with examples; then what the app could not see."""
    lines = [line for entity in verification.entities for line in _format_entity(entity)]
    lines.append("")
    lines.append(f"SQLite's integrity check: {verification.integrity}")
    lines += _format_limits(verification)
    differ = sum(not entity.ok for entity in verification.entities)
    agree = len(verification.entities) - differ
    lines.append(f"{agree} {'table agrees' if agree == 1 else 'tables agree'}, {differ} do not")
    return lines


def _format_entity(entity: EntityFindings) -> list[str]:
    if entity.error is not None:
        return [f"failure  {entity.error}"]
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
    lines = [f"{word:<7}  {entity.entity}: {entity.rows} rows, {text}"]
    for kind, ids in kinds.items():
        if ids:
            more = f" and {len(ids) - EXAMPLES} more" if len(ids) > EXAMPLES else ""
            lines.append(f"           {kind}: {', '.join(ids[:EXAMPLES])}{more}")
    for where, count in entity.dangling.items():
        lines.append(f"           {count} ids in {where} that Dataverse does not return")
    return lines


def _format_limits(verification: Verification) -> list[str]:
    """What the app could not see of what was compared."""
    limits = [f"  {limit}" for limit in verification.limits]
    if verification.limits_unknown:
        limits.append(f"  {verification.limits_unknown}")
    if verification.ok:
        all_of_it = "" if limits else " all of it"
        return [f"the same, as far as this app may see:{all_of_it}", *limits]
    return ["not seen by this app:", *limits] if limits else []
