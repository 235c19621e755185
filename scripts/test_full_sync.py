"""Sync a few entity sets end to end into a temporary database, twice, and verify it.

    python scripts/test_full_sync.py
    python scripts/test_full_sync.py --entity vin_candidates --entity accounts --keep

The first sync copies everything, the second must find nothing new, and then every row is
compared with Dataverse. Exits 1 if one of the three is not so.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dataverse_sync import Config, EntityConfig, SyncReport, run_sync
from dataverse_sync import config as settings
from dataverse_sync.cli import guard
from dataverse_sync.commands.console import FAILED, OK, load
from dataverse_sync.commands.options import Options, add_shared
from dataverse_sync.commands.verify import format_verification
from dataverse_sync.redaction import Redactor
from dataverse_sync.show.progress import PlainDisplay
from dataverse_sync.show.text import format_summary
from dataverse_sync.sync.verification import VerifyOptions, run_verify

__test__ = False  # for pytest: this is a program, not a test


def main(argv: Sequence[str] | None = None) -> int:
    options = build_parser().parse_args(argv, Options())
    redactor = Redactor()
    folder = Path(tempfile.mkdtemp(prefix="dataverse_sync_"))
    try:
        return guard(lambda: _start(options, folder, redactor), redactor)
    finally:
        if options.keep and any(folder.iterdir()):
            print(f"Kept: {folder / 'dataverse.db'}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _start(options: Options, folder: Path, redactor: Redactor) -> int:
    config, entities = load(options, redactor, workers=options.workers)
    config = replace(
        config, sqlite_db_path=folder / "dataverse.db", schema_path=folder / "schema.json"
    )
    return _run(config, _choose(entities, options.entity), redactor)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Sync a few entity sets into a temporary database, sync again, and verify."
    )
    add_shared(parser, "--env-file", "--config")
    parser.add_argument(
        "--entity",
        action="append",
        default=[],
        metavar="NAME",
        help="an entity set to sync; repeatable (default: the first two, and the first "
        "filtered one)",
    )
    add_shared(parser, "--workers")
    parser.add_argument("--keep", action="store_true", help="keep the database, and say where")
    add_shared(parser, "--verbose")
    return parser


def _choose(entities: Sequence[EntityConfig], only: Sequence[str]) -> list[EntityConfig]:
    if only:
        return settings.select_entities(entities, only)
    plain = [entity for entity in entities if not entity.filtered]
    filtered = [entity for entity in entities if entity.filtered]
    return [*plain[:2], *filtered[:1]]


def _run(config: Config, entities: Sequence[EntityConfig], redactor: Redactor) -> int:
    names = ", ".join(entity.name for entity in entities)
    print(f"The first sync, into a new database: {names}", flush=True)
    first = _sync(config, entities, redactor)
    print("\nThe second sync, which should find nothing new:", flush=True)
    second = _sync(config, entities, redactor)
    print("\nThe database against Dataverse:", flush=True)
    verified = run_verify(config, entities, VerifyOptions(), only=(), redactor=redactor)
    for line in format_verification(verified):
        print(line)
    problems = [f"first sync: {one.error}" for one in first.failed]
    problems += [f"second sync: {one.error}" for one in second.failed]
    problems += _news(second)
    if not verified.ok:
        problems.append("the database is not what Dataverse holds")
    print()
    for problem in problems:
        print(redactor.redact(f"problem: {problem}"))
    rows = sum(entity.rows for entity in verified.entities)
    if problems:
        print(f"Not all is well: {len(problems)} problems.")
        return FAILED
    print(f"All is well: {rows} rows in {len(entities)} tables, synced twice and verified.")
    return OK


def _sync(config: Config, entities: Sequence[EntityConfig], redactor: Redactor) -> SyncReport:
    display = PlainDisplay(lambda line: print(redactor.redact(line), flush=True))
    report = run_sync(config, entities, on_event=display.show, redactor=redactor)
    print()
    for line in format_summary(report):
        print(redactor.redact(line))
    return report


def _news(second: SyncReport) -> list[str]:
    """What the second sync wrote; what it only read again was changed of late."""
    return [
        f"second sync: {one.name}: {counts.added} added, {counts.updated} updated, "
        f"{counts.deleted} deleted (were records changed meanwhile? Then run this again.)"
        for one in second.entities
        if (counts := one.counts).added + counts.updated + counts.deleted
    ]


if __name__ == "__main__":
    sys.exit(main())
