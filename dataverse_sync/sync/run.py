"""One run: configure, sign in, prepare, lock or compare, sync, report.

``run_sync`` reads as its six phases; each is a function of the values of those before. It
prints nothing, keeps nothing global, and raises only what ends the whole run; a failed entity
is in the report.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

from sqlalchemy import Connection

from dataverse_sync.config import Config
from dataverse_sync.dataverse.client import DataverseClient
from dataverse_sync.dataverse.session import open_environment
from dataverse_sync.model import Drift, EntityConfig, Event, PhaseStarted, SyncReport
from dataverse_sync.redaction import Redactor
from dataverse_sync.store import database, run_lock, sync_state
from dataverse_sync.store.schema_lock import load_fitting_lock
from dataverse_sync.sync.copying import copy_entities
from dataverse_sync.sync.entity import EntitySync
from dataverse_sync.sync.locking import (
    Prepared,
    build_tables,
    compare_metadata,
    compare_samples,
    lock_schema,
)
from dataverse_sync.sync.run_log import RunLog
from dataverse_sync.sync.setup import Setup, build_setup, check_names, utc_now

log = logging.getLogger(__name__)


def run_sync(
    config: Config,
    entities: Sequence[EntityConfig],
    *,
    only: Sequence[str] = (),
    full: bool = False,
    allow_deletes: bool = False,
    on_event: Callable[[Event], None] = lambda _: None,
    redactor: Redactor | None = None,
) -> SyncReport:
    """Copy what changed since the last run, everything on the first.

    Args:
        config: The environment and its copy.
        entities: All that is configured, also what is not selected: it links.
        only: Entity sets to sync in this run; all if empty.
        full: Ignore the bookmarks and read everything again.
        allow_deletes: Remove records even where more than half of a table would go.
        on_event: Told what happens, on the calling thread.
        redactor: Learns the run's secrets, for a caller who writes logs.

    Returns:
        What was done, entity by entity; a failed entity is there with its error.

    Raises:
        ConfigError: A setting, the database or the schema lock is not usable.
        AuthError: The sign-in was refused, or its host cannot be reached.
        UnreachableError: The API did not answer at all.
        LockedError: Another run holds this database.
        StorageError: The database could not be written.
    """
    redactor = redactor or Redactor()
    with ExitStack() as stack:
        on_event(PhaseStarted(1, "Checking the configuration"))
        setup = build_setup(
            config,
            entities,
            only,
            full=full,
            allow_deletes=allow_deletes,
            emit=on_event,
            redactor=redactor,
        )
        database.check_file(config.db_path)
        stack.enter_context(run_lock.hold(config.db_path, setup.started_at))
        locked = load_fitting_lock(config)
        check_names(setup, locked)

        on_event(PhaseStarted(2, f"Signing in to {config.api_origin}"))
        session = stack.enter_context(open_environment(config, redactor))
        known = build_tables(locked.lock, entities)  # while the sign-in waits for its answers

        on_event(PhaseStarted(3, f"Preparing the database {config.db_path}"))
        connection = stack.enter_context(_prepare_database(setup))

        on_event(PhaseStarted(4, "Locking or comparing the schema"))
        run_log = RunLog(connection, setup.run_id, redactor, utc_now, on_event)
        prepared = lock_schema(setup, locked, known, session, connection)
        _finish_unreadable(prepared, run_log, connection, setup)

        on_event(PhaseStarted(5, "Syncing"))
        syncs = copy_entities(setup, session, connection, prepared, run_log)
        drift = [
            *prepared.added,
            *compare_metadata(setup, prepared, connection),
            *compare_samples(setup, prepared.lock, syncs, connection),
        ]

        on_event(PhaseStarted(6, "Summing up"))
        return _build_report(setup, run_log, syncs, drift, session.client)


def _prepare_database(setup: Setup) -> Connection:
    """Open the database; nothing was written before the sign-in had succeeded."""
    path = setup.config.db_path
    connection = database.open_writer(path)
    with database.transaction(connection):
        mode = database.journal_mode(connection)
    if mode != "wal":
        log.warning(
            "%s: write-ahead logging does not work there (a network drive?); "
            "readers may have to wait",
            path,
        )
    with database.transaction(connection):
        database.prepare_own_tables(connection)
        if killed := sync_state.close_dead_runs(connection, utc_now()):
            entities = "1 entity resumes" if killed == 1 else f"{killed} entities resume"
            log.warning("the previous run was killed; %s from the last committed page", entities)
    return connection


def _finish_unreadable(
    prepared: Prepared, run_log: RunLog, connection: Connection, setup: Setup
) -> None:
    """End the entities that cannot be read, or of which nothing is known yet."""
    found = prepared.found
    with database.transaction(connection):
        run_log.start([*found.empty, *found.failures])
        events = [run_log.finish(name, None, state="pending") for name in found.empty]
        events += [run_log.finish(name, error) for name, error in found.failures.items()]
    for name in found.empty:
        log.warning(
            "%s: empty and not in the metadata; left pending, and tried again next run", name
        )
    for event in events:
        if event.report.error is not None:
            log.error("%s", event.report.error)
        setup.emit(event)


def _build_report(
    setup: Setup,
    run_log: RunLog,
    syncs: Mapping[str, EntitySync],
    drift: Sequence[Drift],
    client: DataverseClient,
) -> SyncReport:
    reports = run_log.reports
    return SyncReport(
        run_id=setup.run_id,
        started_at=setup.started_at,
        finished_at=utc_now(),
        entities=tuple(reports[entity.name] for entity in setup.selected),
        drift=tuple(drift),
        requests=sum(report.requests for report in reports.values()),
        bytes_read=client.bytes_read,
        waited_s=client.waited_s,
        notes={name: sync.note for name, sync in syncs.items() if sync.note},
    )
