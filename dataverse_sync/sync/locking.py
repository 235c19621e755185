"""Lock the schema of what is new, and compare the rest with the live one at the end of a run."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from dataverse_sync.dataverse.session import Session, wait_for
from dataverse_sync.errors import EntityError, RunError, SyncError
from dataverse_sync.model import Drift, Entity, EntityConfig
from dataverse_sync.schema import discovery
from dataverse_sync.schema.discovery import Discovery, infer_entity
from dataverse_sync.schema.lock import SchemaLock, diff_entity
from dataverse_sync.store import sync_state, tables
from dataverse_sync.store.database import transaction
from dataverse_sync.store.keys import create_tables
from dataverse_sync.store.schema_lock import (
    LockedSchema,
    record_drift,
    save_lock_copy,
    save_lock_file,
)
from dataverse_sync.store.tables import EntityTable
from dataverse_sync.sync.entity import EntitySync
from dataverse_sync.sync.setup import Setup, utc_now

log = logging.getLogger(__name__)

_NAMED = 10  # new columns of an entity that are named on the console


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a run works by."""

    lock: SchemaLock  # what is locked, with what this run has added
    tables: Mapping[str, EntityTable]  # of the configured entities that are locked
    compared: Sequence[str]  # the selected entities that were locked before this run
    added: Sequence[Drift]  # entities that are new in a lock that was there
    found: Discovery  # what could not be locked: empty entities, failures
    live: Future[Discovery]  # the metadata, asked for beside the records

    @property
    def entities(self) -> list[Entity]:
        """The configured entities that are locked."""
        return [table.entity for table in self.tables.values()]


def build_tables(lock: SchemaLock, entities: Iterable[EntityConfig]) -> dict[str, EntityTable]:
    """The tables of the configured entities that are locked."""
    names = [entity.name for entity in entities if entity.name in lock]
    return {name: tables.build_table(lock[name]) for name in names}


def lock_schema(
    setup: Setup,
    locked: LockedSchema,
    known: Mapping[str, EntityTable],
    session: Session,
    connection: Connection,
) -> Prepared:
    """Lock what is not locked yet; the rest is compared once its records have come."""
    names = [entity.name for entity in setup.selected]
    live = session.pool.submit(discovery.read_metadata, session.client, names)
    new = [name for name in names if name not in locked.lock]
    found = _find_entities(new, live, session) if new else Discovery()
    lock = {**locked.lock, **found.entities}
    made = {**known, **build_tables(found.entities, setup.entities)}
    added = [Drift(name, "entity_added") for name in found.entities] if locked.lock else []
    _tell_drift(added)
    _tell_left_out(made[name] for name in found.entities)
    if locked.lock and not locked.is_file_current:
        # Before the copy changes: it remembers only its immediate predecessor.
        path = setup.config.schema_path
        log.warning("%s: missing or behind, written again from the database", path)
        save_lock_file(path, locked.lock)
    compared = [name for name in names if name in locked.lock]
    prepared = Prepared(lock, made, compared, added, found, live)
    with transaction(connection):
        new_tables = [table for name, table in made.items() if name not in locked.tables]
        create_tables(connection, new_tables, prepared.entities)
        sync_state.ensure_rows(connection, [entity.name for entity in setup.entities])
        drift = [*added, *_find_taken_out(setup, lock)]
        record_drift(connection, setup.run_id, drift, (), utc_now())
        if lock:
            save_lock_copy(connection, lock, utc_now())
    if found.entities:
        save_lock_file(setup.config.schema_path, lock)
    return prepared


def _find_entities(names: Sequence[str], live: Future[Discovery], session: Session) -> Discovery:
    """Entities by their metadata, else by their first record."""
    known = wait_for(live)
    if any(name in known.refused for name in names):
        problem = known.metadata_error
        log.warning("metadata cannot be read, so new tables go by their first record: %s", problem)
    unknown = [name for name in names if name in known.unknown]
    sampled = discovery.read_samples(session.client, session.pool, unknown)
    for entity in sampled.entities.values():
        log.warning(
            "%s: not in the metadata; columns taken from its first record, key %s (%s)",
            entity.name,
            entity.key,
            entity.key_found,
        )
    described = {name: known.entities[name] for name in names if name in known.entities}
    failures = {
        name: EntityError(
            f"{name}: its definition cannot be read, so its table is not made "
            f"({known.failures[name].message})",
            "Run again later: it is asked for in each run until it is answered.",
        )
        for name in names
        if name in known.failures
    }
    return replace(
        sampled,
        entities={**described, **sampled.entities},
        failures={**sampled.failures, **failures},
    )


def _tell_left_out(made: Iterable[EntityTable]) -> None:
    for table in made:
        if table.left_out:
            log.warning(
                "%s: no column of their own for %s (the names are taken, or there are too "
                "many); their values are in json_response",
                table.name,
                ", ".join(table.left_out),
            )


def _find_taken_out(setup: Setup, lock: SchemaLock) -> list[Drift]:
    """Entities that are locked but not configured any more: recorded once, and kept."""
    configured = {entity.name for entity in setup.entities}
    names = [name for name in lock if name not in configured]
    for name in names:
        log.info("%s: not in the configuration any more; its table is kept", name)
    return [Drift(name, "entity_removed") for name in names]


# Comparing


def compare_metadata(setup: Setup, prepared: Prepared, connection: Connection) -> list[Drift]:
    """Record where live metadata differs from the lock that this run works by."""
    live, problem = _wait_for_live(prepared)
    unread = [n for n in prepared.compared if n not in live.entities and n not in live.unknown]
    unread += [name for name in prepared.compared if name in live.refused]
    if unread and len(unread) == len(prepared.compared):
        log.warning("metadata cannot be read, so the schema was not compared: %s", problem)
    elif unread:
        log.warning(
            "metadata of %s cannot be read, so their schema was not compared: %s",
            ", ".join(unread),
            problem,
        )
    drift: list[Drift] = []
    for name in prepared.compared:
        if name in live.entities:
            drift += diff_entity(prepared.lock[name], live.entities[name])
        elif name not in unread and prepared.lock[name].source == "metadata":
            drift.append(Drift(name, "entity_removed"))
    compared = [name for name in prepared.compared if name in live.entities]
    return _record_drift(setup, connection, drift, compared)


def _wait_for_live(prepared: Prepared) -> tuple[Discovery, SyncError | None]:
    """The live metadata, and why it is not whole, if it is not."""
    try:
        live = wait_for(prepared.live)
    except RunError as error:  # of the sign-in: the records came all the same
        return Discovery(), error
    return live, live.metadata_error


def compare_samples(
    setup: Setup, prepared: Prepared, syncs: Mapping[str, EntitySync], connection: Connection
) -> list[Drift]:
    """Record where records of this run have other columns than an entity locked without metadata.

    No record is read for this alone, so a table in which nothing changed shows no drift.
    """
    found: dict[str, list[Drift]] = {}
    live, _ = _wait_for_live(prepared)
    for name, sync in syncs.items():
        sample, locked = sync.storing.sample, prepared.lock[name]
        if name in live.entities:  # compared with that, which proves more
            continue
        if sample is not None and locked.source == "sample":
            with suppress(ValueError):  # a number of 5,000 digits
                found[name] = diff_entity(locked, infer_entity(name, json.loads(bytes(sample))))
    drift = [item for items in found.values() for item in items]
    return _record_drift(setup, connection, drift, found) if found else []


def _record_drift(
    setup: Setup, connection: Connection, drift: Sequence[Drift], compared: Collection[str]
) -> list[Drift]:
    """Write drift down and say it; returns it, with what is new marked."""
    with transaction(connection):
        new = record_drift(connection, setup.run_id, drift, compared, utc_now())
    _tell_drift(drift)
    by_entity: dict[str, list[str]] = {}
    for item in new:
        if item.change == "column_added" and item.column:
            by_entity.setdefault(item.entity, []).append(item.column)
    for name, columns in by_entity.items():
        log.warning(
            "%s: %d new columns, kept in json_response: %s; take them in with: "
            "python -m dataverse_sync schema accept %s",
            name,
            len(columns),
            ", ".join(columns[:_NAMED]) + (", ..." if len(columns) > _NAMED else ""),
            name,
        )
    return [replace(item, is_new=item in new) for item in drift]


def _tell_drift(drift: Iterable[Drift]) -> None:
    for item in drift:
        level = logging.WARNING if item.severity == "breaking" else logging.INFO
        log.log(level, "schema drift, %s: %s", item.severity, item)
