"""``schema diff`` and ``schema accept``: the locked schema against the live one.

``accept`` needs no download: the values of a new column are in ``json_response``
already. Each entity is one transaction, its lock included.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection

from dataverse_sync.commands.console import FAILED, OK, Tell, choose_tell, load, show
from dataverse_sync.commands.options import CONSOLE, PLACES, Options, add_command, add_shared
from dataverse_sync.config import Config, select_entities
from dataverse_sync.dataverse.session import open_session
from dataverse_sync.errors import ConfigError
from dataverse_sync.model import Drift, Entity, EntityConfig
from dataverse_sync.redaction import Redactor
from dataverse_sync.schema import discovery
from dataverse_sync.schema.lock import SchemaLock, accept_entity, diff_entity
from dataverse_sync.store import database, labelled_views, sync_state
from dataverse_sync.store.environment import forget_labelled
from dataverse_sync.store.migrate import bring_to
from dataverse_sync.store.schema_lock import (
    load_schema,
    open_copy,
    save_lock_copy,
    save_lock_file,
)
from dataverse_sync.store.tables import build_table


def add_options(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    diff = add_command(commands, "diff", "show the locked schema against the live one")
    diff.set_defaults(run=_run_diff)
    add_shared(diff, *PLACES, "--entity", "--json", *CONSOLE)
    accept = add_command(commands, "accept", "lock the live schema, and fill new columns")
    accept.set_defaults(run=_run_accept)
    accept.add_argument(
        "only", nargs="*", metavar="ENTITY", help="only these entity sets (default: all)"
    )
    accept.add_argument(
        "--drop", action="store_true", help="drop columns that are gone from Dataverse"
    )
    add_shared(accept, *PLACES, *CONSOLE)


def _run_diff(options: Options, redactor: Redactor) -> int:
    config, entities = load(options, redactor)
    live = get_drift(config, entities, options.entity, redactor)
    document = to_document(live)
    show(options, document, lambda: format_drift(live), ok=document["equal"])
    return OK if document["equal"] else FAILED


def _run_accept(options: Options, redactor: Redactor) -> int:
    config, entities = load(options, redactor)
    failures = accept(
        config, entities, options.only, redactor, drop=options.drop, tell=choose_tell(options)
    )
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    return FAILED if failures else OK


@dataclass(frozen=True, slots=True)
class LiveSchema:
    """The live schema, how it differs from the locked one, and what could not be compared."""

    entities: dict[str, Entity]
    drift: tuple[Drift, ...]
    failures: dict[str, str]  # entity → why it could not be compared


def get_drift(
    config: Config, entities: Sequence[EntityConfig], only: Sequence[str], redactor: Redactor
) -> LiveSchema:
    """Compare the locked schema with the live one.

    Raises:
        ConfigError: Nothing is locked yet, or the lock is not usable.
        AuthError: The sign-in was refused.
    """
    selected = select_entities(entities, only)
    target = database.open_target(config.db_path)
    target.check(to_write=False)
    return _compare(config, selected, load_schema(target, config.schema_path).lock, redactor)


def _compare(
    config: Config, selected: Sequence[EntityConfig], lock: SchemaLock, redactor: Redactor
) -> LiveSchema:
    if not lock:
        raise ConfigError(
            f"{config.schema_path}: nothing is locked yet",
            "The first sync locks the schema: python -m dataverse_sync sync",
        )
    names = [entity.name for entity in selected]
    with open_session(config, redactor) as session:
        session.sign_in()
        live = discovery.read_metadata(session.client, names)
        guessed = [
            name for name in live.unknown if name not in lock or lock[name].source == "sample"
        ]
        sampled = discovery.read_samples(session.client, session.pool, guessed)
    known = {**live.entities, **sampled.entities}
    drift: list[Drift] = []
    failures = {name: str(error) for name, error in sampled.failures.items()}
    for name in names:
        if name in known:
            drift += diff_entity(lock[name], known[name]) if name in lock else []
            drift += [] if name in lock else [Drift(name, "entity_added")]
        elif name in live.failures:
            failures[name] = f"{name}: cannot be compared, {live.failures[name]}"
        elif name in failures or name in sampled.empty:
            continue
        elif name in live.refused:
            failures[name] = f"{name}: cannot be compared, {live.metadata_error}"
        elif name in lock and lock[name].source == "metadata":
            drift.append(Drift(name, "entity_removed"))
    return LiveSchema(known, tuple(drift), failures)


def accept(
    config: Config,
    entities: Sequence[EntityConfig],
    only: Sequence[str],
    redactor: Redactor,
    *,
    drop: bool,
    tell: Tell,
) -> list[str]:
    """Lock the live schema, and bring the tables to it from ``json_response``.

    Returns why entities could not be accepted. With ``drop``, columns that are no longer in
    Dataverse are dropped; else they keep their values.

    Raises:
        ConfigError: There is no database, or nothing is locked yet.
        LockedError: Another run holds the database.
        StorageError: The database or the lock file cannot be written.
    """
    selected = select_entities(entities, only)
    target = database.open_target(config.db_path)
    with ExitStack() as stack:
        opened = open_copy(target, config.schema_path, write=True, must_fit=False)
        locked = stack.enter_context(opened)
        live = _compare(config, selected, locked.lock, redactor)
        lock = dict(locked.lock)
        if lock and not locked.is_file_current:  # another run left it unwritten
            save_lock_file(config.schema_path, lock)
        connection = stack.enter_context(target.open_writer())
        for entity in selected:
            if entity.name not in live.entities or entity.name not in lock:
                continue
            before = lock[entity.name]
            lock[entity.name] = accept_entity(before, live.entities[entity.name], drop)
            _bring_table(connection, before, lock, entities, tell)
            save_lock_file(config.schema_path, lock)
    return list(live.failures.values())


def _bring_table(
    connection: Connection,
    before: Entity,
    lock: SchemaLock,
    entities: Sequence[EntityConfig],
    tell: Tell,
) -> None:
    """Bring one table to its new lock, in the transaction that keeps the lock."""
    wanted = lock[before.name]
    configured = [lock[entity.name] for entity in entities if entity.name in lock]
    with database.transaction(connection):
        database.prepare_own_tables(connection)
        bring_to(connection, build_table(wanted), configured, tell)
        if wanted.key != before.key:
            # Records that the other key merged were never stored: read all again.
            forgotten = dict.fromkeys(("last_timestamp", "checkpoint", "delta_link"))
            sync_state.set_state(connection, wanted.name, **forgotten)
        dropped = labelled_views.drop_broken(connection)
        save_lock_copy(connection, lock, datetime.now(UTC))
        forget_labelled(connection)
    for view in dropped:
        tell(f"{view}: dropped, it shows a column that is gone; the next sync makes it again")


def to_document(live: LiveSchema) -> dict[str, Any]:
    """The differences as one JSON document."""
    return {
        "equal": not live.drift and not live.failures,
        "differences": [_describe(item) for item in live.drift],
        "failures": live.failures,
    }


def format_drift(live: LiveSchema) -> list[str]:
    """The differences, a line each."""
    lines = [f"{item.severity:<8}  {item}" for item in live.drift]
    lines += [f"failure   {error}" for error in live.failures.values()]
    if not lines:
        return ["The locked schema matches the live one."]
    return [*lines, "", "To lock the live schema: python -m dataverse_sync schema accept"]


def _describe(drift: Drift) -> dict[str, object]:
    document = {**asdict(drift), "severity": drift.severity}
    del document["is_new"]  # of a sync alone
    return document
