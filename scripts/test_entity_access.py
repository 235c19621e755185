"""See what the app may read: each entity set, its key, its rows, what a sync can go by.

    python scripts/test_entity_access.py

Reads, and writes nothing. Exits 1 if an entity set cannot be read.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dataverse_sync import Config
from dataverse_sync import config as settings
from dataverse_sync.cli import guard
from dataverse_sync.commands.console import FAILED, OK, load
from dataverse_sync.commands.options import Options, add_shared
from dataverse_sync.dataverse import odata
from dataverse_sync.dataverse.client import DataverseClient
from dataverse_sync.dataverse.session import open_session
from dataverse_sync.errors import EntityError, RequestError
from dataverse_sync.model import Entity, PageRequest
from dataverse_sync.redaction import Redactor
from dataverse_sync.schema import discovery
from dataverse_sync.show.text import format_table

__test__ = False  # for pytest: this is a program, not a test

COUNT_LIMIT = 5000  # where $count stops
_HEADS = (
    "entity set",
    "readable",
    "key",
    "key found by",
    "rows",
    "counted by",
    "modifiedon",
    "change tracking",
)


@dataclass(frozen=True, slots=True)
class Access:
    """What was found of one entity set, in words for the table."""

    name: str
    readable: str
    key: str = "-"
    key_found: str = "-"
    rows: str = "-"
    counted_by: str = "-"
    modifiedon: str = "-"
    change_tracking: str = "-"
    reason: str = ""  # why it cannot be read, or not tracked

    @property
    def ok(self) -> bool:
        return self.readable == "yes"


def _count(client: DataverseClient, name: str, logical_name: str | None) -> tuple[str, str]:
    """How many records, and how they were counted; the service keeps totals for a day."""
    if logical_name is not None:
        with suppress(EntityError, KeyError):
            total = client.get_counts([logical_name])[logical_name]
            return str(total), "total (up to a day old)"
    with suppress(EntityError, ValueError):
        answer = client.get_bytes(f"{name}/$count")
        if answer.status == 200:
            count = int(answer.body.decode("utf-8-sig"))
            return (f"{count}+" if count >= COUNT_LIMIT else str(count)), "$count"
    return "-", "-"


def main(argv: Sequence[str] | None = None) -> int:
    options = build_parser().parse_args(argv, Options())
    redactor = Redactor()
    return guard(lambda: _run(options, redactor), redactor)


def _run(options: Options, redactor: Redactor) -> int:
    config, entities = load(options, redactor, workers=options.workers)
    names = [entity.name for entity in settings.select_entities(entities, options.entity)]
    return _look(config, names, redactor)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="See which entity sets the app may read, with their keys and rows, and "
        "whether a sync can go by modifiedon or change tracking."
    )
    add_shared(parser, "--env-file", "--config", "--entity")
    add_shared(parser, "--workers", default=4)
    add_shared(parser, "--verbose")
    return parser


def _look(config: Config, names: Sequence[str], redactor: Redactor) -> int:
    # One record is enough of a tracked read, which takes no $top.
    with open_session(replace(config, page_size=1), redactor) as session:
        session.sign_in()
        print(f"Signed in to {config.api_origin}, tenant {session.auth.tenant_id}.")
        described = discovery.read_metadata(session.client, names)
        if described.metadata_error is not None:
            print(f"The metadata cannot be read: {redactor.redact(str(described.metadata_error))}")
        sampled = discovery.read_samples(session.client, session.pool, described.unknown)
        known = {**described.entities, **sampled.entities}
        failures = {**described.failures, **sampled.failures}

        def look(name: str) -> Access:
            if name in known:
                return _reach(session.client, known[name])
            if name in failures:
                return _unreadable(Access(name, "no"), failures[name])
            return Access(name, "yes", rows="0", reason="empty, and not in the metadata")

        found = list(session.pool.map(look, names))
    print()
    for line in format_table(_HEADS, [_row(access) for access in found]):
        print(line)
    print()
    for access in found:
        if access.reason:
            print(redactor.redact(f"{access.name}: {access.reason}"))
    readable = sum(access.ok for access in found)
    print(f"{readable} of {len(found)} entity sets can be read.")
    return OK if readable == len(found) else FAILED


def _reach(client: DataverseClient, entity: Entity) -> Access:
    """Ask for one key: enough to see whether the entity set may be read."""
    name = entity.name
    build = partial(odata.build_url, client.api_url, name, select=(entity.key,))
    access = Access(
        name,
        "yes",
        key=entity.key,
        key_found=entity.key_found,
        modifiedon="yes" if entity.has("modifiedon") else "no",
        change_tracking="yes" if entity.change_tracking else "no",
    )
    if entity.source == "sample":
        access = replace(access, change_tracking="not known")
    try:
        client.release(client.get_page(PageRequest(name, build(top=1), top=True)))
    except EntityError as error:
        return _unreadable(access, error)
    rows, counted_by = _count(client, name, entity.logical_name)
    access = replace(access, rows=rows, counted_by=counted_by)
    if not entity.change_tracking:
        return access
    try:
        client.release(client.get_page(PageRequest(name, build(), track_changes=True)))
    except EntityError as error:
        return replace(access, change_tracking="refused", reason=f"not tracked: {error}")
    return access


def _unreadable(access: Access, error: EntityError) -> Access:
    status = error.status if isinstance(error, RequestError) else None
    return replace(access, readable=f"no ({status})" if status else "no", reason=str(error))


def _row(access: Access) -> tuple[str, ...]:
    return (
        access.name,
        access.readable,
        access.key,
        access.key_found,
        access.rows,
        access.counted_by,
        access.modifiedon,
        access.change_tracking,
    )


if __name__ == "__main__":
    sys.exit(main())
