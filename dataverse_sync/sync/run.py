"""One run: configure, sign in, prepare, lock or compare, sync, report.

``run_sync`` reads as its six phases; each is a function of the values of those before. It
prints nothing, keeps nothing global, and raises only what ends the whole run; a failed entity
is in the report.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace

from sqlalchemy import Connection

from dataverse_sync.config import Config, check_entities
from dataverse_sync.dataverse.client import DataverseClient
from dataverse_sync.dataverse.session import open_session, wait_for
from dataverse_sync.errors import ConfigError
from dataverse_sync.model import Drift, EntityConfig, Event, PhaseStarted, SyncReport
from dataverse_sync.redaction import Redactor
from dataverse_sync.store import database, sync_state
from dataverse_sync.store.environment import Environment
from dataverse_sync.store.schema_lock import LockedSchema, open_copy
from dataverse_sync.sync.asking_rights import SINGLES_OF_A_RUN, ask_rights
from dataverse_sync.sync.copying import Copying
from dataverse_sync.sync.identity import (
    check_environment,
    get_environment,
    record_environment,
    refuse_another,
)
from dataverse_sync.sync.labelling import is_due, refresh_labels
from dataverse_sync.sync.locking import (
    build_tables,
    compare_metadata,
    compare_samples,
    lock_schema,
)
from dataverse_sync.sync.setup import Setup, utc_now

log = logging.getLogger(__name__)


def run_sync(
    config: Config,
    entities: Sequence[EntityConfig],
    *,
    only: Sequence[str] = (),
    full: bool = False,
    allow_deletes: bool = False,
    new_environment: bool = False,
    labels: bool = True,
    on_event: Callable[[Event], None] = lambda _: None,
    redactor: Redactor | None = None,
) -> SyncReport:
    """Copy what changed since the last run, everything on the first.

    Args:
        config: The environment and its copy.
        entities: All that is configured, also what is not selected: it links.
        only: Entity sets to sync in this run; all if empty.
        full: Ignore the bookmarks and read everything again.
        allow_deletes: Remove records even where the guard would not let them go.
        new_environment: The database holds another environment from now on: compare everything.
        labels: Make labels, the data dictionary and the labelled views, when they are due.
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
    setup = Setup(
        config, entities, only, full, allow_deletes, new_environment, labels, on_event, redactor
    )
    with ExitStack() as stack:
        return _run(setup, stack)


def _run(setup: Setup, stack: ExitStack) -> SyncReport:
    """The six phases."""
    config, emit = setup.config, setup.emit
    emit(PhaseStarted(1, "Checking the configuration"))
    locked = _configure(setup, stack)

    emit(PhaseStarted(2, f"Signing in to {config.api_origin}"))
    here = _find_recorded(setup, locked)
    authority = here.authority if here else None
    session = stack.enter_context(open_session(config, setup.redactor, authority))
    known = build_tables(locked.lock, setup.entities)  # while the sign-in waits for its answers
    session.sign_in()
    asked = session.pool.submit(get_environment, session)
    if here is None or _has_new(setup, locked):  # else it is waited for beside the preparing
        refuse_another(locked.environment, wait_for(asked), setup)

    emit(PhaseStarted(3, f"Preparing the database {config.db_path}"))
    connection = stack.enter_context(_prepare_database(setup))

    emit(PhaseStarted(4, "Locking or comparing the schema"))
    prepared = lock_schema(setup, locked, known, session, connection)
    pending = ask_rights(session, asked, prepared.live, singles=SINGLES_OF_A_RUN)
    found = wait_for(asked)
    compares_all = check_environment(locked.environment, found, setup)
    setup = replace(setup, full=setup.full or compares_all)
    with database.transaction(connection):
        if compares_all:
            sync_state.forget_reads(connection)
        if setup.new_environment:
            sync_state.forget_rights(connection)
        record_environment(connection, locked.environment, found, is_new=setup.new_environment)

    emit(PhaseStarted(5, "Syncing"))
    copying = Copying(setup, session, connection, prepared, pending)
    copying.run()
    entities = [prepared.lock[one.name] for one in setup.selected if one.name in prepared.lock]
    configured = [entity.name for entity in setup.entities]
    copying.rights.keep_limits(entities, configured, locked.environment)
    drift = [
        *prepared.added,
        *compare_metadata(setup, prepared, connection),
        *compare_samples(setup, prepared, copying.syncs, connection),
    ]

    emit(PhaseStarted(6, "Summing up"))
    has_changed = bool(prepared.added) or any(item.is_new for item in drift)
    if copying.has_completed and (has_changed or is_due(here, utc_now())) and setup.labels:
        refresh_labels(session, connection, prepared.tables, here.language if here else None)
    return _build_report(setup, copying, drift, session.client)


def _find_recorded(setup: Setup, locked: LockedSchema) -> Environment | None:
    """What an earlier run has recorded of the environment at this address."""
    recorded = locked.environment
    return recorded if recorded and recorded.api_url == setup.config.api_url else None


def _has_new(setup: Setup, locked: LockedSchema) -> bool:
    """Whether a table will be new, so that something will be written before any record is read."""
    return any(entity.name not in locked.lock for entity in setup.selected)


def _configure(setup: Setup, stack: ExitStack) -> LockedSchema:
    """Check everything that can be checked without the network, and take the run lock."""
    check_entities(setup.entities)
    selected = [entity.name for entity in setup.selected]
    target = database.open_target(setup.config.db_path)
    copy = open_copy(target, setup.config.schema_path, write=True, must_exist=False)
    locked = stack.enter_context(copy)
    others = {name.lower() for name in locked.tables if name not in locked.lock}
    if taken := [name for name in selected if name.lower() in others]:
        raise ConfigError(
            f"{target.name}: holds tables of other programs under the names {', '.join(taken)}",
            "Name another database with --db.",
        )
    return locked


def _prepare_database(setup: Setup) -> Connection:
    """Open the database; nothing was written before the sign-in had succeeded."""
    target = database.open_target(setup.config.db_path)
    connection = target.open_writer()
    with database.transaction(connection):
        blocks_readers = target.blocks_readers(connection)
    if blocks_readers:
        log.warning(
            "%s: write-ahead logging does not work there (a network drive?); "
            "readers may have to wait",
            target.name,
        )
    with database.transaction(connection):
        database.prepare_own_tables(connection)
        if killed := sync_state.close_dead_runs(connection, utc_now()):
            entities = "1 entity resumes" if killed == 1 else f"{killed} entities resume"
            log.warning("the previous run was killed; %s from the last committed page", entities)
    return connection


def _build_report(
    setup: Setup, copying: Copying, drift: Sequence[Drift], client: DataverseClient
) -> SyncReport:
    entities = tuple(copying.reports[entity.name] for entity in setup.selected)
    return SyncReport(
        run_id=setup.run_id,
        started_at=setup.started_at,
        finished_at=utc_now(),
        entities=entities,
        drift=tuple(drift),
        requests=sum(entity.requests for entity in entities),
        bytes_read=client.bytes_read,
        waited_s=client.waited_s,
        notes={name: sync.note for name, sync in copying.syncs.items() if sync.note},
    )
