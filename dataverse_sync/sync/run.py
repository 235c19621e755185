"""One run: configure, sign in, prepare, lock or compare, sync, report.

``run_sync`` reads as its six phases. It prints nothing, keeps nothing global, and
raises only what ends the whole run; a failed entity is in the report.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial

from dataverse_sync.config import Config, check_entities, select_entities
from dataverse_sync.dataverse.session import Session, open_session, wait_for
from dataverse_sync.errors import (
    ConfigError,
    EntityError,
    GuardError,
    RunError,
    StorageError,
    SyncError,
)
from dataverse_sync.model import (
    Counts,
    Drift,
    Entity,
    EntityConfig,
    EntityFinished,
    EntityReport,
    EntityStarted,
    Event,
    PhaseStarted,
    ReadExpected,
    State,
    SyncReport,
)
from dataverse_sync.moments import to_text
from dataverse_sync.redaction import Redactor
from dataverse_sync.schema import discovery
from dataverse_sync.schema.drift import diff_entity
from dataverse_sync.schema.inference import infer_entity
from dataverse_sync.schema.lock import SchemaLock
from dataverse_sync.store import database, deletions, run_lock
from dataverse_sync.store import sync_state as states
from dataverse_sync.store import tables as schema_manager
from dataverse_sync.store.references import References
from dataverse_sync.store.schema_lock import (
    load_fitting_lock,
    record_drift,
    save_file,
    save_lock_copy,
)
from dataverse_sync.store.tables import EntityTable
from dataverse_sync.store.upsert import count_rows
from dataverse_sync.sync import ranges as segments
from dataverse_sync.sync.entity import EntityRun
from dataverse_sync.sync.page_loop import PageLoop

log = logging.getLogger(__name__)

Emit = Callable[[Event], None]


def run_sync(
    config: Config,
    entities: Sequence[EntityConfig],
    *,
    only: Sequence[str] = (),
    full: bool = False,
    allow_deletes: bool = False,
    on_event: Emit = lambda _: None,
    redactor: Redactor | None = None,
) -> SyncReport:
    """Copy what changed since the last run, everything on the first.

    Args:
        config: The environment and its copy.
        entities: All that is configured, also what is not selected: it links.
        only: Entity sets to sync in this run; all where empty.
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
    with ExitStack() as stack:
        run = _Run(config, entities, full, allow_deletes, on_event, redactor or Redactor(), stack)
        run.configure(only)
        run.sign_in()
        run.prepare_database()
        run.lock_schema()
        run.sync()
        return run.report()


@dataclass
class _Run:
    """What the phases hand on to each other."""

    config: Config
    entities: Sequence[EntityConfig]
    full: bool
    allow_deletes: bool
    emit: Emit
    redactor: Redactor
    stack: ExitStack
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    selected: Sequence[EntityConfig] = ()
    is_partial: bool = False  # limited by --entity
    lock: SchemaLock = field(default_factory=dict)  # what is locked, of file and database together
    is_file_current: bool = False
    there: Collection[str] = ()  # the tables that the database has
    tables: dict[str, EntityTable] = field(default_factory=dict)
    compared: Sequence[str] = ()  # the selected entities that were locked before
    drift: list[Drift] = field(default_factory=list)
    runs: dict[str, EntityRun] = field(default_factory=dict)
    is_over: bool = False  # ended early: that is said once, by whoever is told of it
    began: dict[str, float] = field(default_factory=dict)
    log_ids: dict[str, int] = field(default_factory=dict)
    reports: dict[str, EntityReport] = field(default_factory=dict)
    ended: list[EntityReport] = field(default_factory=list)  # to be told once it is committed

    # [1/6]

    def configure(self, only: Sequence[str]) -> None:
        """Check everything that can be checked without the network, and take the run lock."""
        self.emit(PhaseStarted(1, "Checking the configuration"))
        check_entities(self.entities)
        self.selected = select_entities(self.entities, only)
        self.is_partial = len(self.selected) < len(self.entities)
        path = self.config.db_path
        database.check_file(path)
        self.stack.enter_context(run_lock.hold(path, self.started_at))
        locked = load_fitting_lock(self.config)
        self.lock, self.is_file_current = locked.lock, locked.is_file_current
        self.there = locked.tables.keys()
        there = {name.lower() for name in locked.tables if name not in locked.lock}
        if strange := [e.name for e in self.selected if e.name.lower() in there]:
            raise ConfigError(
                f"{path}: holds tables of other programs under the names {', '.join(strange)}",
                "Name another database with --db.",
            )

    # [2/6]

    def sign_in(self) -> None:
        self.emit(PhaseStarted(2, f"Signing in to {self.config.api_origin}"))
        opened = open_session(self.config, self.redactor)
        self.session: Session = self.stack.enter_context(opened)
        self._build_tables()
        self.session.sign_in()

    def _build_tables(self) -> None:
        """The tables of all configured entities that are locked by now."""
        configured = [entity.name for entity in self.entities if entity.name in self.lock]
        self.tables = {
            name: self.tables.get(name) or schema_manager.build_table(self.lock[name])
            for name in configured
        }

    # [3/6]

    def prepare_database(self) -> None:
        """Open the file; nothing was written before the sign-in had succeeded."""
        path = self.config.db_path
        self.emit(PhaseStarted(3, f"Preparing the database {path}"))
        self.connection = self.stack.enter_context(database.open_writer(path))
        with database.transaction(self.connection):
            mode = database.journal_mode(self.connection)
        if mode != "wal":
            log.warning(
                "%s: write-ahead logging does not work there (a network drive?); "
                "readers may have to wait",
                path,
            )
        with database.transaction(self.connection):
            database.prepare_own_tables(self.connection)
            if dead := states.close_dead_runs(self.connection, _now()):
                log.warning(
                    "the last run was killed; entities that go on from committed pages: %d",
                    dead,
                )

    # [4/6]

    def lock_schema(self) -> None:
        """Lock what is not locked yet; what is, is compared once its records have come."""
        self.emit(PhaseStarted(4, "Locking or comparing the schema"))
        names = [entity.name for entity in self.selected]
        self.compared = [name for name in names if name in self.lock]
        pool = self.session.pool
        self.live = pool.submit(discovery.read_metadata, self.session.client, names)
        new = [name for name in names if name not in self.lock]
        found = self._discover(new) if new else discovery.Discovery()
        self._make_tables(found.entities)
        self._skip(found)

    def _discover(self, names: Sequence[str]) -> discovery.Discovery:
        """Entities by their metadata, else by their first record."""
        live = wait_for(self.live)
        if live.metadata_error is not None:
            log.warning(
                "metadata cannot be read, so new tables go by their first record: %s",
                live.metadata_error,
            )
        unknown = [name for name in names if name not in live.entities]
        sampled = discovery.read_samples(self.session.client, self.session.pool, unknown)
        for entity in sampled.entities.values():
            log.warning(
                "%s: not in the metadata; columns taken from its first record, key %s (%s)",
                entity.name,
                entity.key,
                entity.key_found,
            )
        known = {name: live.entities[name] for name in names if name in live.entities}
        return replace(sampled, entities={**known, **sampled.entities})

    def _compare_metadata(self) -> None:
        """Report what differs from what was locked before this run, which goes by its lock."""
        try:
            live = wait_for(self.live)
            problem: SyncError | None = live.metadata_error
        except RunError as error:  # of the sign-in: the records came all the same
            live, problem = discovery.Discovery(), error
        if problem is not None and self.compared:
            log.warning("metadata cannot be read, so the schema was not compared: %s", problem)
        drift: list[Drift] = []
        for name in self.compared:
            if name in live.entities:
                drift += diff_entity(self.lock[name], live.entities[name])
            elif problem is None and self.lock[name].source == "metadata":
                drift.append(Drift(name, "entity_removed"))
        compared = [name for name in self.compared if name in live.entities]
        self._record_drift(drift, compared)

    def _record_drift(self, drift: Sequence[Drift], compared: Collection[str]) -> None:
        self._tell_drift(drift)
        self.drift += drift
        with database.transaction(self.connection):
            record_drift(self.connection, self.run_id, drift, compared, _now())

    def _tell_drift(self, drift: Iterable[Drift]) -> None:
        for item in drift:
            level = logging.WARNING if item.severity == "breaking" else logging.INFO
            log.log(level, "schema drift, %s: %s", item.severity, item)

    def _make_tables(self, added: Mapping[str, Entity]) -> None:
        """Tables, lock and its copy in one transaction; then the file, whole."""
        if self.lock:
            self.drift = [Drift(name, "entity_added") for name in added]
            self._tell_drift(self.drift)
        self._write_lock_left_unwritten()
        self.lock = {**self.lock, **added}
        self._build_tables()
        for table in self.tables.values():
            if table.left_out and table.name in added:
                log.warning(
                    "%s: no column of their own for %s (the names are taken, or there are too "
                    "many); their values are in json_response",
                    table.name,
                    ", ".join(table.left_out),
                )
        drift = [*self.drift, *(Drift(name, "entity_removed") for name in self._find_taken_out())]
        with database.transaction(self.connection):
            for name, table in self.tables.items():
                if name not in self.there:
                    table.table.create(self.connection)
            states.ensure_rows(self.connection, [entity.name for entity in self.entities])
            record_drift(self.connection, self.run_id, drift, (), _now())
            if self.lock:
                save_lock_copy(self.connection, self.lock, _now())
        if added:
            save_file(self.config, self.lock)

    def _find_taken_out(self) -> list[str]:
        """Entities that are locked but not configured any more: noted once, and no news later."""
        configured = {entity.name for entity in self.entities}
        names = [name for name in self.lock if name not in configured]
        for name in names:
            log.info("%s: not in the configuration any more; its table is kept", name)
        return names

    def _write_lock_left_unwritten(self) -> None:
        """Before the copy goes on: it knows only one lock that the file may be behind by."""
        if self.lock and not self.is_file_current:
            log.warning(
                "%s: missing or behind, written again from the database", self.config.schema_path
            )
            save_file(self.config, self.lock)

    def _skip(self, sampled: discovery.Discovery) -> None:
        """Entities that cannot be read, or of which nothing is known yet."""
        with database.transaction(self.connection):
            self._start([*sampled.empty, *sampled.failures])
            for name in sampled.empty:
                log.warning(
                    "%s: empty and not in the metadata; left pending, and tried again next run",
                    name,
                )
                self._finish(name, None, state="pending")
            for name, error in sampled.failures.items():
                self._finish(name, error)
        self._tell_ended()

    # [5/6]

    def sync(self) -> None:
        self.emit(PhaseStarted(5, "Syncing"))
        try:
            self._sync()
        except BaseException as error:
            self._abandon(error)
            raise

    def _sync(self) -> None:
        loop = PageLoop(
            self.session.client,
            self.session.pool,
            self.config.workers,
            self.connection,
            self.emit,
            self._note_commit,
        )
        chosen = [entity for entity in self.selected if entity.name not in self.reports]
        with database.transaction(self.connection):
            self._begin(chosen)
        unfiltered = [entity.name for entity in chosen if not entity.filtered]
        counted = self._choose_segments(unfiltered)
        expected = {name: self._expect(name, counted.get(name)) for name in unfiltered}
        # What changed since comes at once, and then what is gone is asked for: nothing of
        # it should wait behind pages. Of the full reads the longest takes the others along.
        order = sorted(unfiltered, key=lambda name: (expected[name] > 0, -expected[name]))
        loop.run({name: self.runs[name].sync_unfiltered() for name in order}, self._finish)
        if any(entity.filtered for entity in chosen):
            self._sync_filtered(loop, [entity.name for entity in chosen if entity.filtered])
        self._compare_metadata()
        self._compare_samples()

    def _compare_samples(self) -> None:
        """What metadata could not tell: whether the records of this run have other columns.

        None is read for this alone, so a table where nothing changed shows no drift.
        """
        drift: dict[str, list[Drift]] = {}
        for name, run in self.runs.items():
            if run.sample is not None and self.lock[name].source == "sample":
                with suppress(ValueError):  # a number of 5,000 digits
                    live = infer_entity(name, json.loads(bytes(run.sample)))
                    drift[name] = diff_entity(self.lock[name], live)
        if drift:
            self._record_drift([item for items in drift.values() for item in items], drift)

    def _expect(self, name: str, counted: int | None) -> int:
        """Tell about how many records a full read will bring; returns it, 0 where unknown.

        It is what was counted, or else what is there already.
        """
        run = self.runs[name]
        stored = run.state.records_count
        left = counted - stored if counted and run.state.checkpoint else counted or stored
        records = max(0, left) if run.reads_in_full else 0
        self.emit(ReadExpected(name, records or None, counted or stored or None))
        return records

    def _choose_segments(self, names: Sequence[str]) -> Mapping[str, int]:
        """See which tables are read in full and are large enough to be read in ranges.

        Returns:
            About how many records those have that were counted for it.
        """
        most = self.config.segments
        runs = [
            run
            for run in (self.runs[name] for name in names)
            if run.table.entity.logical_name is not None
            and run.table.entity.has("createdon")
            and run.reads_in_full
        ]
        if most == 1 or not runs:
            return {}
        logical_names = [str(run.table.entity.logical_name) for run in runs]
        try:
            counts = self.session.client.get_counts(logical_names)
        except EntityError as error:
            log.info("row counts cannot be had: %s", error.message)
            return {}
        for run, name in zip(runs, logical_names, strict=True):
            run.segments = segments.choose_count(counts.get(name), most)
        named = zip(runs, logical_names, strict=True)
        return {run.name: counts[name] for run, name in named if name in counts}

    def _sync_filtered(self, loop: PageLoop, names: Sequence[str]) -> None:
        """Ask for what is linked to, until nothing new is; then remove what is not."""
        filtered = {entity.name for entity in self.entities if entity.filtered}
        with database.transaction(self.connection):
            references = References(self.connection, self.tables, filtered)
        records: Counter[str] = Counter()  # that are asked for, whole, and by their keys
        keys: Counter[str] = Counter()
        while True:
            jobs = {}
            with database.transaction(self.connection):
                references.reach()
                for name in names:
                    new, known = references.list_unasked(name)
                    if name not in self.reports and (new or known):
                        references.mark_asked(name, [*new, *known])
                        gone = partial(references.mark_gone, name)
                        jobs[name] = self.runs[name].fetch_linked(new, known, gone)
                        records[name] += len(new) + (len(known) if self.full else 0)
                        keys[name] += len(known)
            if not jobs:
                break
            for name in jobs:
                self.emit(ReadExpected(name, records[name] or None, keys[name] or None))
            loop.run(jobs, self._finish_if_failed)
        with database.transaction(self.connection):
            self._sweep(references, names)
        self._note_commit()

    def _abandon(self, error: BaseException) -> None:
        """Note why the run ends, beside the checkpoints that the next one goes on from."""
        self.is_over = True
        self.session.client.stop()
        why = "interrupted" if isinstance(error, KeyboardInterrupt) else type(error).__name__
        text = str(error) if isinstance(error, SyncError) else why
        ended = EntityError(text, "The next run goes on from the last committed page.")
        self.connection.rollback()  # an interrupt may have come while a transaction began
        with suppress(StorageError), database.transaction(self.connection):
            for name, run in self.runs.items():
                if name not in self.reports:
                    run.counts = run.committed
                    self._finish(name, ended)

    def _finish_if_failed(self, name: str, error: EntityError | None) -> None:
        if error is not None:
            self._finish(name, error)

    def _sweep(self, references: References, names: Sequence[str]) -> None:
        """Remove what is gone or no longer linked to, from each table within its guard."""
        stays = {entity.name for entity in self.entities if entity.deletions == "ignore"}
        while True:
            for name in names:
                if name in stays or name in self.reports:
                    references.forget_gone(name)
            references.reach()
            tripped: dict[str, GuardError] = {}
            for name in names:
                if name in self.reports or name in stays:
                    continue
                table = self.tables[name]
                deletions.spare_all(self.connection, table)
                deletions.doom(self.connection, table, references.gone(name), "not_returned")
                if not self.is_partial:
                    deletions.doom(self.connection, table, references.unlinked(name), "unlinked")
                try:
                    deletions.check_guard(self.connection, table, self.allow_deletes)
                except GuardError as error:
                    tripped[name] = error
            if not tripped:
                break
            for name, refusal in tripped.items():  # their rows stay, and link
                self._finish(name, refusal)
        for name in names:
            if name not in self.reports:
                if name not in stays:
                    self.runs[name].remove_doomed()
                self.runs[name].save_bookmark()
                self._finish(name, None)

    def _begin(self, entities: Sequence[EntityConfig]) -> None:
        names = [entity.name for entity in entities]
        before = states.load_states(self.connection, names)
        self._start(names)
        for entity in entities:
            self.runs[entity.name] = EntityRun(
                config=entity,
                table=self.tables[entity.name],
                state=before[entity.name],
                connection=self.connection,
                api_url=self.config.api_url,
                now=_now,
                log_id=self.log_ids[entity.name],
                full=self.full,
                allow_deletes=self.allow_deletes,
            )

    def _start(self, names: Sequence[str]) -> None:
        self.log_ids |= states.start_entities(self.connection, self.run_id, names, _now())
        for name in names:
            self.began[name] = time.monotonic()
            self.emit(EntityStarted(name))

    def _finish(self, name: str, error: EntityError | None, state: State = "completed") -> None:
        """Write how an entity ended, in the transaction that ends it."""
        run = self.runs.get(name)
        counts = run.counts if run else Counts()
        requests = run.requests if run else 0
        now = to_text(_now())
        text = None if error is None else self.redactor.redact(str(error))
        changes: dict[str, object] = {"state": "failed" if error else state, "error": text}
        if run is not None:
            changes["records_count"] = count_rows(self.connection, run.table)
        if error is None and state == "completed":
            changes["last_sync_time"] = now
        states.set_state(self.connection, name, **changes)
        status = "failed" if error else "completed"
        states.update_log(
            self.connection,
            self.log_ids[name],
            counts,
            requests,
            status=status,
            finished_at=now,
            error=text,
        )
        seconds = time.monotonic() - self.began[name]
        report = EntityReport(name, "failed" if error else state, counts, requests, seconds, text)
        self.reports[name] = report
        if error is not None and not self.is_over:
            log.error("%s", text)
        self.ended.append(report)

    def _note_commit(self) -> None:
        for run in self.runs.values():
            run.committed = run.counts
        self._tell_ended()

    def _tell_ended(self) -> None:
        while self.ended:
            self.emit(EntityFinished(self.ended.pop(0)))

    # [6/6]

    def report(self) -> SyncReport:
        self.emit(PhaseStarted(6, "Summing up"))
        return SyncReport(
            run_id=self.run_id,
            started_at=self.started_at,
            finished_at=_now(),
            entities=tuple(self.reports[entity.name] for entity in self.selected),
            drift=tuple(self.drift),
            requests=sum(report.requests for report in self.reports.values()),
            bytes_read=self.session.client.bytes_read,
            waited_s=self.session.client.waited_s,
            notes={name: run.note for name, run in self.runs.items() if run.note},
        )


def _now() -> datetime:
    return datetime.now(UTC)
