"""Copy the entities: the unfiltered ones, then what they link to, then remove what is unlinked."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress

from sqlalchemy import Connection

from dataverse_sync.dataverse.client import DataverseClient
from dataverse_sync.dataverse.session import Environment
from dataverse_sync.errors import EntityError, StorageError, SyncError
from dataverse_sync.model import EntityFinished, Event, ReadExpected
from dataverse_sync.store import sync_state
from dataverse_sync.store.database import transaction
from dataverse_sync.store.references import References
from dataverse_sync.sync import ranges
from dataverse_sync.sync.entity import EntitySync
from dataverse_sync.sync.filtered import mark_unlinked, read_closure
from dataverse_sync.sync.locking import Prepared
from dataverse_sync.sync.page_loop import Job, PageLoop
from dataverse_sync.sync.run_log import RunLog
from dataverse_sync.sync.setup import Setup, utc_now

log = logging.getLogger(__name__)


def copy_entities(
    setup: Setup,
    session: Environment,
    connection: Connection,
    prepared: Prepared,
    run_log: RunLog,
) -> Mapping[str, EntitySync]:
    """Copy the selected entities that did not fail or stay pending before.

    Returns:
        The work on each, which knows what was done; how it ended is in the run's log.

    Raises:
        RunError: What ends the run; the log and the states say so, too.
    """
    with transaction(connection):
        copying = _Copying(setup, session, connection, prepared, run_log)
    try:
        copying.copy_unfiltered()
        copying.copy_filtered()
    except BaseException as error:
        session.client.stop()
        copying.abandon(error)
        raise
    return copying.syncs


class _Copying:
    """The work on all entities of a run."""

    def __init__(
        self,
        setup: Setup,
        session: Environment,
        connection: Connection,
        prepared: Prepared,
        run_log: RunLog,
    ) -> None:
        """Begin with every entity; call it in a transaction."""
        self._setup = setup
        self._client = session.client
        self._connection = connection
        self._tables = prepared.tables
        self._log = run_log
        self._loop = PageLoop(
            session.client, session.pool, setup.config.workers, connection, setup.emit
        )
        chosen = [entity for entity in setup.selected if entity.name not in run_log.reports]
        names = [entity.name for entity in chosen]
        before = sync_state.load_states(connection, names)
        run_log.start(names)
        self.syncs = {
            entity.name: EntitySync(
                entity,
                prepared.tables[entity.name],
                before[entity.name],
                connection,
                setup.config.api_url,
                run_log.begun[entity.name].log_id,
                utc_now,
                full=setup.full,
                allow_deletes=setup.allow_deletes,
            )
            for entity in chosen
        }

    def copy_unfiltered(self) -> None:
        syncs = [sync for sync in self.syncs.values() if not sync.config.filtered]
        counts = _count_large(self._client, syncs, self._setup.config.segments)
        for sync in syncs:
            if sync.name in counts:
                sync.ranges = ranges.choose_count(counts[sync.name], self._setup.config.segments)
        expected = {sync.name: _expect_records(sync, counts.get(sync.name)) for sync in syncs}
        for sync in syncs:
            rows = counts.get(sync.name) or sync.state.records_count
            self._setup.emit(ReadExpected(sync.name, expected[sync.name] or None, rows or None))
        # What changed since comes at once, and then what is gone is asked for: nothing of
        # it should wait behind pages. Of the full reads the longest takes the others along.
        syncs.sort(key=lambda sync: (expected[sync.name] > 0, -expected[sync.name]))
        self._loop.run(
            {sync.name: Job(sync.reader, sync.sync_unfiltered()) for sync in syncs}, self._finish
        )

    def copy_filtered(self) -> None:
        """Read what is linked to, until nothing new is; then remove what is not."""
        names = [name for name, sync in self.syncs.items() if sync.config.filtered]
        if not names:
            return
        connection, setup = self._connection, self._setup
        with transaction(connection):
            references = References(connection, self._tables, setup.filtered)
        records: Counter[str] = Counter()  # that are asked for, whole, and by their keys
        keys: Counter[str] = Counter()

        def make_job(name: str, new: Sequence[str], known: Sequence[str]) -> Job | None:
            if name in self._log.reports:
                return None
            sync = self.syncs[name]
            records[name] += len(new) + (len(known) if setup.full else 0)
            keys[name] += len(known)
            setup.emit(ReadExpected(name, records[name] or None, keys[name] or None))
            return Job(sync.reader, sync.sync_linked(references, new, known))

        read_closure(self._loop, connection, references, names, make_job, self._finish_if_failed)
        with transaction(connection):
            events = self._finish_filtered(references, names)
        for event in events:
            setup.emit(event)

    def _finish_filtered(
        self, references: References, names: Sequence[str]
    ) -> Sequence[EntityFinished]:
        """Remove what is no longer there or linked to, from each table within its guard."""
        events = []
        keeps = {name for name in names if self.syncs[name].config.deletions == "ignore"}
        while True:
            going = [name for name in names if name not in self._log.reports]
            removing = [name for name in going if name not in keeps]
            for name in {*names} - {*removing}:
                references.forget_gone(name)
            refused = mark_unlinked(
                self._connection,
                references,
                self._tables,
                removing,
                whole=not self._setup.is_partial,
                allow_deletes=self._setup.allow_deletes,
            )
            if not refused:
                break
            events += [self._finish(name, error) for name, error in refused.items()]
        for name in going:
            if name in removing:
                self.syncs[name].storing.remove_marked()
            self.syncs[name].save_bookmark()
            events.append(self._finish(name, None))
        return events

    def _finish(self, name: str, error: EntityError | None) -> EntityFinished:
        sync = self.syncs[name]
        if error is not None:
            log.error("%s", self._setup.redactor.redact(str(error)))
        return self._log.finish(name, error, sync.counts, sync.reader.requests, sync.table)

    def _finish_if_failed(self, name: str, error: EntityError | None) -> Event | None:
        return None if error is None else self._finish(name, error)

    def abandon(self, error: BaseException) -> None:
        """Write why the run ends, beside the checkpoints that the next one goes on from."""
        why = "interrupted" if isinstance(error, KeyboardInterrupt) else type(error).__name__
        text = str(error) if isinstance(error, SyncError) else why
        ended = EntityError(text, "The next run goes on from the last committed page.")
        self._connection.rollback()  # an interrupt may have come while a transaction began
        with suppress(StorageError), transaction(self._connection):
            log_ids = [begun.log_id for begun in self._log.begun.values()]
            counts = sync_state.load_counts(self._connection, log_ids)  # as of the last commit
            for name, sync in self.syncs.items():
                if name not in self._log.reports:
                    committed = counts[self._log.begun[name].log_id]
                    requests = sync.reader.requests
                    self._log.finish(name, ended, committed, requests, sync.table)


def _expect_records(sync: EntitySync, counted: int | None) -> int:
    """About how many records a full read will bring, by what was counted or is there; else 0."""
    if not sync.plan.starts_over:
        return 0
    stored = sync.state.records_count
    left = counted - stored if counted and sync.state.checkpoint else counted or stored
    return max(0, left)


def _count_large(
    client: DataverseClient, syncs: Sequence[EntitySync], most: int | None
) -> Mapping[str, int]:
    """About how many records those tables have that may be read in ranges."""
    wanted = {
        str(sync.table.entity.logical_name): sync.name
        for sync in syncs
        if sync.table.entity.logical_name is not None
        and sync.table.entity.has("createdon")
        and sync.plan.starts_over
    }
    if most == 1 or not wanted:
        return {}
    try:
        counts = client.get_counts(list(wanted))
    except EntityError as error:
        log.info("row counts cannot be had: %s", error.message)
        return {}
    return {wanted[name]: count for name, count in counts.items() if name in wanted}
