"""Copy the entities: the unfiltered ones, then what they link to, then remove what is unlinked."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

from sqlalchemy import Connection

from dataverse_sync.dataverse.client import DataverseClient
from dataverse_sync.dataverse.session import Session
from dataverse_sync.errors import EntityError, GuardError, StorageError, SyncError
from dataverse_sync.model import (
    Counts,
    EntityConfig,
    EntityFinished,
    EntityReport,
    EntityStarted,
    Event,
    ReadExpected,
    State,
)
from dataverse_sync.moments import to_text
from dataverse_sync.store import deletions, sync_state
from dataverse_sync.store.database import transaction
from dataverse_sync.store.keys import make_indexes
from dataverse_sync.store.references import References
from dataverse_sync.store.sync_state import EntityState
from dataverse_sync.store.upsert import count_rows
from dataverse_sync.sync.asking_rights import PendingRights
from dataverse_sync.sync.entity import EntitySync
from dataverse_sync.sync.filtered import read_closure
from dataverse_sync.sync.locking import Prepared
from dataverse_sync.sync.page_loop import Job, PageLoop
from dataverse_sync.sync.plan import choose_compared
from dataverse_sync.sync.ranges import choose_count
from dataverse_sync.sync.rights_in_run import RightsInRun
from dataverse_sync.sync.setup import Setup, utc_now
from dataverse_sync.sync.ways import format_way

log = logging.getLogger(__name__)


@dataclass
class Copying:
    """The work on all selected entities of a run; how each ended is in ``reports``."""

    setup: Setup
    session: Session
    connection: Connection
    prepared: Prepared
    pending: PendingRights
    syncs: dict[str, EntitySync] = field(default_factory=dict)
    reports: dict[str, EntityReport] = field(default_factory=dict)
    _began: dict[str, float] = field(default_factory=dict)  # on the clock that only goes forward
    _log_ids: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        session, setup = self.session, self.setup
        self.rights = RightsInRun(setup, self.connection, self.pending)
        self._loop = PageLoop(
            session.client, session.pool, setup.config.workers, self.connection, setup.emit
        )

    def run(self) -> None:
        """Copy every entity that can be read; what ends the run is written down, and raised."""
        self._finish_unreadable()
        try:
            with transaction(self.connection):
                self._begin()
            self._copy_all()
            if any(sync.has_gone_back for sync in self.syncs.values()):
                self._start_over()
                self._copy_all()
        except BaseException as error:
            self.session.client.stop()
            self._abandon(error)
            raise

    def _finish_unreadable(self) -> None:
        """End the entities that cannot be read, or of which nothing is known yet."""
        found = self.prepared.found
        with transaction(self.connection):
            self._start([*found.empty, *found.failures])
            events = [self._finish(name, None, "pending") for name in found.empty]
            events += [self._finish(name, error) for name, error in found.failures.items()]
        for name in found.empty:
            log.warning(
                "%s: empty and not in the metadata; left pending, and tried again next run", name
            )
        self._tell(events)

    def _begin(self) -> None:
        setup = self.setup
        chosen = [entity for entity in setup.selected if entity.name not in self.reports]
        names = [entity.name for entity in chosen]
        before = sync_state.load_states(self.connection, names)
        compared = self._choose_compared(chosen, before)
        self._start(names)
        for entity in chosen:
            state, compares = before[entity.name], entity.name in compared
            self.syncs[entity.name] = self._make_sync(entity, state, compares=compares)

    def _make_sync(
        self, entity: EntityConfig, state: EntityState, *, compares: bool = False
    ) -> EntitySync:
        setup = self.setup
        return EntitySync(
            entity,
            self.prepared.tables[entity.name],
            state,
            self.connection,
            setup.config.api_url,
            self._log_ids[entity.name],
            utc_now,
            full=setup.full,
            allow_deletes=setup.allow_deletes,
            compares=compares,
            page_size=setup.config.page_size,
            server_date=self.session.client.server_date,
        )

    def _choose_compared(
        self, chosen: Sequence[EntityConfig], before: Mapping[str, EntityState]
    ) -> set[str]:
        """Of the tables whose deletions are tracked, those whose keys are compared in this run."""
        tables = self.prepared.tables
        tracked = {
            entity.name: before[entity.name]
            for entity in chosen
            if not entity.filtered
            and tables[entity.name].entity.change_tracking
            and entity.deletions == "sync"
        }
        return choose_compared(tracked, utc_now())

    def _start_over(self) -> None:
        """Forget what earlier runs know, since versions went back, and compare everything."""
        log.warning(
            "versions are older than those of the copy: was the environment restored from a "
            "backup? Bookmarks and tokens are forgotten, and everything is compared"
        )
        self.setup = replace(self.setup, full=True)
        done = {name: sync for name, sync in self.syncs.items() if self._is_completed(name)}
        with transaction(self.connection):
            sync_state.forget_reads(self.connection)
            self._make_again(done)

    def _make_again(self, done: Mapping[str, EntitySync]) -> None:
        """Read these entities once more, by what is kept of them now."""
        states = sync_state.load_states(self.connection, list(done))
        for name, sync in done.items():
            self.reports.pop(name, None)
            self.syncs[name] = self._make_sync(sync.config, states[name])
            self.syncs[name].go_on_from(sync)

    @property
    def has_completed(self) -> bool:
        """Whether any entity has completed."""
        return any(report.state == "completed" for report in self.reports.values())

    def _is_completed(self, name: str) -> bool:
        return name in self.reports and self.reports[name].state == "completed"

    # The unfiltered entities

    def _copy_all(self) -> None:
        self._copy_unfiltered()
        self._read_anew()
        self._copy_filtered()

    def _read_anew(self) -> None:
        """Read once more, and in full, what was read by a bookmark from before its rights grew."""
        syncs = self.syncs.values()
        done = [one for one in syncs if not one.config.filtered and self._is_completed(one.name)]
        changed = self.rights.list_changed(done)
        again = {sync.name: sync for sync in changed if not sync.is_full_read}
        if again:
            with transaction(self.connection):
                sync_state.forget_reads(self.connection, again)
                for sync in again.values():  # a run that is killed need not see it again
                    self.rights.save(sync)
                self._make_again(again)
            self._copy_unfiltered()

    def _copy_unfiltered(self) -> None:
        most = self.setup.config.segments
        going = [sync for name, sync in self.syncs.items() if name not in self.reports]
        syncs = [sync for sync in going if not sync.config.filtered]
        counts = {} if most == 1 else _count_large(self.session.client, syncs)
        expected = {sync.name: _expect_records(sync, counts.get(sync.name)) for sync in syncs}
        for sync in syncs:
            sync.ranges = choose_count(counts.get(sync.name), most)
            rows = counts.get(sync.name) or sync.state.records_count
            self.setup.emit(ReadExpected(sync.name, expected[sync.name] or None, rows or None))
        # First what takes longest within the time of a few requests: what is compared as well, full
        # reads of a page, incremental reads. Of longer reads the longest begins first.
        page = self.setup.config.page_size
        syncs.sort(
            key=lambda sync: (
                expected[sync.name] > page,
                not sync.removal.compares,
                -expected[sync.name],
            )
        )
        jobs = {
            sync.name: Job(sync.reader, sync.sync_unfiltered(), partial(self.rights.admit, sync))
            for sync in syncs
        }
        self._loop.run(jobs, self._finish, self.pending.futures)

    # The filtered entities

    def _copy_filtered(self) -> None:
        """Read what is linked to, until nothing new is; then remove what is not."""
        names = [name for name, sync in self.syncs.items() if sync.config.filtered]
        if not names:
            return
        setup, connection = self.setup, self.connection
        self._refuse_lost(names)
        going = [self.syncs[name] for name in names if name not in self.reports]
        for sync in self.rights.list_changed(going):
            sync.full = True
        with transaction(connection):
            references = References(connection, self.prepared.tables, setup.filtered)
        records: Counter[str] = Counter()  # that are asked for, whole, and by their keys
        keys: Counter[str] = Counter()

        def make_job(name: str, new: Sequence[str], known: Sequence[str]) -> Job | None:
            if name in self.reports:
                return None
            sync = self.syncs[name]
            records[name] += len(new) + (len(known) if setup.full else 0)
            keys[name] += len(known)
            setup.emit(ReadExpected(name, records[name] or None, keys[name] or None))
            return Job(sync.reader, sync.sync_linked(references, new, known))

        read_closure(self._loop, connection, references, names, make_job, self._finish_if_failed)
        with transaction(connection):
            events = self._finish_filtered(references, names)
        self._tell(events)

    def _refuse_lost(self, names: Sequence[str]) -> None:
        """End the entities that the app may read less of than what was copied."""
        events = []
        with transaction(self.connection):
            for name in names:
                try:
                    if name not in self.reports:
                        self.rights.admit(self.syncs[name])
                except EntityError as error:
                    events.append(self._finish(name, error))
        self._tell(events)

    def _finish_filtered(
        self, references: References, names: Sequence[str]
    ) -> Sequence[EntityFinished]:
        """Remove what is gone or no longer linked to, from each table within its guard."""
        events = []
        # If a read failed, or not all was selected, some of what links was not read.
        failed = any(report.state == "failed" for report in self.reports.values())
        is_all_read = not failed and not self.setup.is_partial
        while True:
            going = [name for name in names if name not in self.reports]
            removing = [n for n in going if self.syncs[n].config.deletions == "sync"]
            kept = {*names} - {*removing}
            refused = self._mark_unlinked(references, removing, kept, is_all_read)
            if not refused:
                break
            # Their rows stay, and link.
            events += [self._finish(name, error) for name, error in refused.items()]
        for name in going:
            if name in removing:
                self.syncs[name].storing.remove_marked()
            self.syncs[name].save_bookmark()
            self.syncs[name].removal.save_compared()  # what is linked is asked for in each run
            events.append(self._finish(name, None))
        return events

    def _mark_unlinked(
        self, references: References, names: Sequence[str], kept: set[str], is_all_read: bool
    ) -> Mapping[str, GuardError]:
        """Mark rows of these entities for removal; returns those that the guard refuses."""
        setup, connection = self.setup, self.connection
        for name in kept:
            references.forget_gone(name)
        references.reach()
        refused: dict[str, GuardError] = {}
        for name in names:
            table = self.prepared.tables[name]
            deletions.unmark_all(connection, table)
            deletions.mark_for_removal(connection, table, references.gone(name), "not_returned")
            if is_all_read:
                unlinked = references.unlinked(name)
                deletions.mark_for_removal(connection, table, unlinked, "unlinked")
            try:
                added = self.syncs[name].counts.added
                deletions.check_guard(connection, table, setup.allow_deletes, added=added)
            except GuardError as error:
                refused[name] = error
        return refused

    # Beginnings and ends

    def _start(self, names: Sequence[str]) -> None:
        run_id = self.setup.run_id
        self._log_ids |= sync_state.start_entities(self.connection, run_id, names, utc_now())
        for name in names:
            self._began[name] = time.monotonic()
            self.setup.emit(EntityStarted(name))

    def _finish(
        self, name: str, error: EntityError | None, state: State = "completed"
    ) -> EntityFinished:
        """Write how an entity ended, in the transaction that ends it."""
        sync = self.syncs.get(name)
        report = self._write_end(name, error, sync.counts if sync else Counts(), state)
        if error is not None:
            log.error("%s", report.error)
        return EntityFinished(report)

    def _finish_if_failed(self, name: str, error: EntityError | None) -> Event | None:
        return None if error is None else self._finish(name, error)

    def _write_end(
        self, name: str, error: EntityError | None, counts: Counts, state: State = "completed"
    ) -> EntityReport:
        sync, now = self.syncs.get(name), to_text(utc_now())
        text = None if error is None else self.setup.redactor.redact(str(error))
        state = state if error is None else "failed"
        changes: dict[str, object] = {"state": state, "error": text}
        if sync is not None:
            changes["records_count"] = count_rows(self.connection, sync.table)
            known = sync.state.asked_how
            changes["asked_how"] = format_way(sync.reader.proven, known, utc_now())
        if state == "completed":
            changes["last_sync_time"] = now
            if sync is not None:
                self.rights.save_at_end(sync)
                if not sync.state.has_completed:
                    make_indexes(self.connection, sync.table, self.prepared.entities)
        sync_state.set_state(self.connection, name, **changes)
        requests = sync.reader.requests if sync else 0
        sync_state.update_log(
            self.connection,
            self._log_ids[name],
            counts,
            requests,
            status="failed" if error else "completed",
            finished_at=now,
            error=text,
        )
        seconds = time.monotonic() - self._began[name]
        self.reports[name] = EntityReport(name, state, counts, requests, seconds, text)
        return self.reports[name]

    def _abandon(self, error: BaseException) -> None:
        """Write why the run ends, beside the checkpoints that the next one goes on from."""
        why = "interrupted" if isinstance(error, KeyboardInterrupt) else type(error).__name__
        text = str(error) if isinstance(error, SyncError) else why
        ended = EntityError(text, "The next run goes on from the last committed page.")
        self.connection.rollback()  # an interrupt may have come while a transaction began
        with suppress(StorageError), transaction(self.connection):
            # What is logged is what was committed.
            counts = sync_state.load_counts(self.connection, [*self._log_ids.values()])
            for name in self.syncs:
                if name not in self.reports:
                    self._write_end(name, ended, counts.get(self._log_ids[name], Counts()))

    def _tell(self, events: Sequence[Event]) -> None:
        for event in events:
            self.setup.emit(event)


def _expect_records(sync: EntitySync, counted: int | None) -> int:
    """About how many records a full read will bring, by what was counted or is there; else 0."""
    if not sync.plan.starts_over:
        return 0
    stored = sync.state.records_count
    left = counted - stored if counted and sync.state.checkpoint else counted or stored
    return max(0, left)


def _count_large(client: DataverseClient, syncs: Sequence[EntitySync]) -> Mapping[str, int]:
    """About how many records those tables have that may be read in ranges."""
    entities = [sync.table.entity for sync in syncs if sync.plan.starts_over]
    names = {e.logical_name: e.name for e in entities if e.logical_name and e.has("createdon")}
    if not names:
        return {}
    try:
        counts = client.get_counts(list(names))
    except EntityError as error:
        log.info("row counts cannot be had: %s", error.message)
        return {}
    return {names[name]: count for name, count in counts.items() if name in names}
