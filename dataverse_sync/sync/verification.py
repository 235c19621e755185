"""Compare the copy with Dataverse, table by table, and keep what was found as a proof.

It is a proof of what the app may see, so that is asked for as well. A table of which it may see
less than was copied proves nothing, and nothing of it is mended.
"""

from __future__ import annotations

import logging
import math
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sqlalchemy import Connection

from dataverse_sync.config import Config, select_entities
from dataverse_sync.dataverse.session import open_session, wait_for
from dataverse_sync.errors import ConfigError, EntityError, StorageError
from dataverse_sync.model import (
    EntityConfig,
    EntityStarted,
    EntityVerified,
    Event,
    Limit,
    ReadExpected,
)
from dataverse_sync.redaction import Redactor
from dataverse_sync.schema.discovery import read_metadata
from dataverse_sync.store import sync_state
from dataverse_sync.store.database import TEMPORARY_TABLES, Target, open_target, transaction
from dataverse_sync.store.environment import Environment
from dataverse_sync.store.proof import VALUES, VERIFY, keep_proofs, load_sampled
from dataverse_sync.store.references import References, count_dangling
from dataverse_sync.store.row_checks import choose_sample, list_keys
from dataverse_sync.store.schema_lock import open_copy
from dataverse_sync.store.sync_state import EntityState
from dataverse_sync.store.tables import EntityTable
from dataverse_sync.store.upsert import count_rows
from dataverse_sync.sync.entity_verification import EntityComparison, EntityFindings
from dataverse_sync.sync.filtered import read_closure
from dataverse_sync.sync.identity import describe_other, get_environment, judge
from dataverse_sync.sync.page_loop import Job, PageLoop
from dataverse_sync.sync.reading import EntityReader
from dataverse_sync.sync.sight import SINGLES_OF_A_CHECK, Sight, ask, describe_gain, describe_loss
from dataverse_sync.sync.ways import parse_way

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found of the whole database."""

    integrity: str  # the database's own word: "ok", or what is wrong
    entities: tuple[EntityFindings, ...]
    limits: tuple[Limit, ...] = ()  # what the app may not see of it
    limits_unknown: str = ""  # what of that cannot be asked for, and why

    @property
    def ok(self) -> bool:
        return self.integrity == "ok" and all(entity.ok for entity in self.entities)


def run_verify(
    config: Config,
    entities: Sequence[EntityConfig],
    *,
    only: Sequence[str],
    repair: bool,
    allow_deletes: bool,
    redactor: Redactor,
    values: bool = False,
    sample: float | None = None,
    on_event: Callable[[Event], None] = lambda _: None,
) -> Verification:
    """Compare every selected entity; with ``repair``, fetch and remove exactly what differs.

    Args:
        values: Compare every byte of the records too, not only keys and versions.
        sample: Of so many percent of a table's rows alone: each time of the next ones.
        on_event: Told what happens, on the calling thread.

    Raises:
        ConfigError: There is no database, or a setting is not usable.
        AuthError: The sign-in was refused.
        LockedError: With ``repair``: another run holds the database.
    """
    selected = select_entities(entities, only)
    target = open_target(config.db_path)
    target.check()
    with ExitStack() as stack:
        opened = open_copy(target, config.schema_path, write=repair)
        locked = stack.enter_context(opened)
        tables = locked.build_tables(entities)
        session = stack.enter_context(open_session(config, redactor))
        session.sign_in()
        names = [entity.name for entity in selected]
        environment = session.pool.submit(get_environment, session)
        live = session.pool.submit(read_metadata, session.client, names)
        asking = ask(session, environment, live, singles=SINGLES_OF_A_CHECK)
        _check_environment(locked.environment, wait_for(environment), target.name, repair)
        sight = asking.wait()
        connection = target.open_writer() if repair else target.open_reader(lasting=True)
        stack.enter_context(connection)
        integrity = target.check_integrity(connection)
        loop = PageLoop(session.client, session.pool, config.workers, connection, on_event)
        filtered = {entity.name for entity in entities if entity.filtered}
        is_whole = len(selected) == len(entities)
        comparison = _Comparison(
            loop, connection, tables, filtered, is_whole, redactor, sight, values, sample, on_event
        )
        with transaction(connection):
            TEMPORARY_TABLES.create_all(connection)
            states = sync_state.load_states(connection, names)
            for entity in selected:
                comparison.add(entity, config, states[entity.name], repair, allow_deletes)
            sampled = load_sampled(connection) if VERIFY.name in locked.tables else {}
        comparison.compare_unfiltered()
        comparison.compare_filtered(repair)
        comparison.compare_samples(sampled)
        known = {**locked.lock, **sight.entities}
        limits = sight.find_limits(known[name] for name in names if name in known)
        findings = tuple(comparison.findings.values())
        found = Verification(integrity, findings, tuple(limits), sight.problem)
    _keep(target, found)
    return found


def _keep(target: Target, found: Verification) -> None:
    """Keep what was found; where the database cannot be written, that is said."""
    try:
        with target.open_writer() as connection, transaction(connection):
            proofs = [entity.proof for entity in found.entities]
            keep_proofs(connection, uuid.uuid4().hex, proofs, datetime.now(UTC))
    except (ConfigError, StorageError) as error:
        log.warning("what was found cannot be kept for status and report: %s", error.message)


def _check_environment(
    recorded: Environment | None, found: Environment, database: str, repair: bool
) -> None:
    """Refuse to repair from another organization than the one that was copied; else say it."""
    if recorded is not None and judge(recorded, found) == "other":
        error = describe_other(recorded, found, database)
        if repair:
            raise error
        log.warning("%s", error.message)


@dataclass
class _Comparison:
    """The selected entities of a verification."""

    loop: PageLoop
    connection: Connection
    tables: Mapping[str, EntityTable]
    filtered: set[str]
    is_whole: bool  # every configured entity is compared
    redactor: Redactor
    sight: Sight
    values: bool
    sample: float | None  # percent of the rows whose values are compared; None: all
    emit: Callable[[Event], None]
    findings: dict[str, EntityFindings] = field(default_factory=dict)
    compared: dict[str, EntityComparison] = field(default_factory=dict)

    def add(
        self,
        entity: EntityConfig,
        config: Config,
        state: EntityState,
        repair: bool,
        allow_deletes: bool,
    ) -> None:
        name = entity.name
        findings = self.findings[name] = EntityFindings(name)
        if (table := self.tables.get(name)) is None:
            findings.error = f"{name}: there is no table yet; it was never synced"
            return
        findings.rows = count_rows(self.connection, table)
        if self.values:
            is_sample = self.sample is not None
            findings.compared = f"values of {self.sample:g} %" if is_sample else VALUES
        change = self.sight.compare(name, state.rights)
        if change.lost and not allow_deletes:
            findings.error = str(describe_loss(name, change))
            return
        if change.gained and findings.compared != VALUES:
            findings.error = str(describe_gain(name, change))
            return
        way = parse_way(state.asked_how, datetime.now(UTC))
        self.compared[name] = EntityComparison(
            findings,
            self.connection,
            table,
            EntityReader(table.entity, config.api_url, way, config.page_size),
            entity.deletions == "ignore",
            repair,
            allow_deletes,
        )

    def compare_unfiltered(self) -> None:
        compared = {n: one for n, one in self.compared.items() if n not in self.filtered}
        self._tell_begin(compared)
        jobs = {name: Job(one.reader, one.compare_all()) for name, one in compared.items()}
        self.loop.run(jobs, self._end)

    def compare_filtered(self, repair: bool) -> None:
        """Compare what is linked to; with ``repair`` again, until nothing new is linked."""
        names = [name for name in self.compared if name in self.filtered]
        if not names:
            return
        self._tell_begin(names)

        def make_job(name: str, new: Sequence[str], known: Sequence[str]) -> Job | None:
            one = self.compared[name]
            if one.findings.error is not None:
                return None
            return Job(one.reader, one.compare_linked([*new, *known]))

        connection = self.connection
        with transaction(connection):
            references = References(connection, self.tables, self.filtered)
        read_closure(self.loop, connection, references, names, make_job, self._end)
        # A record that is missing or stale may be what links to a row.
        uncertain = any(found.missing or found.stale for found in self.findings.values())
        is_all_read = self.is_whole and all(not found.error for found in self.findings.values())
        with transaction(connection):
            for name in names:
                one = self.compared[name]
                if is_all_read and (repair or not uncertain):
                    one.add_unlinked(list_keys(connection, references.unlinked(name)))
                one.findings.dangling = count_dangling(connection, self.tables, self.filtered, name)

    def compare_samples(self, sampled: Mapping[str, str]) -> None:
        """Compare the values of the rows whose turn it is; those after the ``sampled`` ones."""
        if self.sample is None or not self.values:
            return
        jobs = {}
        with transaction(self.connection):
            for name, one in self.compared.items():
                count = math.ceil(one.findings.rows * self.sample / 100)
                if count and one.findings.error is None:
                    keys = choose_sample(self.connection, one.table, count, sampled.get(name))
                    jobs[name] = Job(one.reader, one.compare_sample(keys))
                    self.emit(ReadExpected(name, len(keys), one.findings.rows))
        self.loop.run(jobs, self._end)

    def _tell_begin(self, names: Iterable[str]) -> None:
        for name in names:
            rows = self.findings[name].rows
            self.emit(EntityStarted(name))
            self.emit(ReadExpected(name, rows, rows))

    def _end(self, name: str, error: EntityError | None) -> Event:
        findings = self.findings[name]
        findings.requests = self.compared[name].reader.requests
        if error is not None:
            findings.error = self.redactor.redact(str(error))
        return EntityVerified(name)
