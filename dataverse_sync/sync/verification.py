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
from dataverse_sync.dataverse.session import Session, open_session, wait_for
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
from dataverse_sync.store.database import (
    TEMPORARY_TABLES,
    Target,
    dialect_of,
    open_target,
    transaction,
)
from dataverse_sync.store.environment import Environment
from dataverse_sync.store.proof import (
    KEYS_AND_VERSIONS,
    VALUES,
    VERIFY,
    Compared,
    keep_proofs,
    load_sampled,
)
from dataverse_sync.store.references import References, count_dangling
from dataverse_sync.store.row_checks import list_keys
from dataverse_sync.store.schema_lock import LockedSchema, open_copy
from dataverse_sync.store.sync_state import EntityState
from dataverse_sync.store.tables import EntityTable
from dataverse_sync.store.upsert import count_rows
from dataverse_sync.sync.asking_rights import SINGLES_OF_A_CHECK, ask_rights
from dataverse_sync.sync.entity_verification import EntityComparison, EntityFindings
from dataverse_sync.sync.filtered import read_closure
from dataverse_sync.sync.identity import describe_other, get_environment, judge
from dataverse_sync.sync.page_loop import Job, PageLoop
from dataverse_sync.sync.reading import EntityReader
from dataverse_sync.sync.rights import AccessRights, describe_gain, describe_loss
from dataverse_sync.sync.ways import parse_way

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """What is compared, and what is done about differences."""

    values: bool = False  # every byte of the records too, not only keys and versions
    sample: float | None = None  # of so many percent of a table's rows alone, each time of the next
    repair: bool = False  # fetch and remove exactly what differs
    allow_deletes: bool = False  # lift the guard

    @property
    def compared(self) -> Compared:
        if not self.values:
            return KEYS_AND_VERSIONS
        return VALUES if self.sample is None else f"values of {self.sample:g} %"


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found of the whole database."""

    integrity: str  # the database's own word: "ok", or what is wrong
    entities: tuple[EntityFindings, ...]
    limits: tuple[Limit, ...] = ()  # what the app may not see of it
    limits_unknown: str = ""  # what of that is not told, and why

    @property
    def ok(self) -> bool:
        return self.integrity == "ok" and all(entity.ok for entity in self.entities)


def run_verify(
    config: Config,
    entities: Sequence[EntityConfig],
    options: VerifyOptions,
    *,
    only: Sequence[str],
    redactor: Redactor,
    on_event: Callable[[Event], None] = lambda _: None,
) -> Verification:
    """Compare every selected entity, as the options say.

    Raises:
        ConfigError: There is no database, or a setting is not usable.
        AuthError: The sign-in was refused.
        LockedError: With ``repair``: another run holds the database.
    """
    selected = select_entities(entities, only)
    target = open_target(config.db_path)
    target.check()
    with ExitStack() as stack:
        opened = open_copy(target, config.schema_path, write=options.repair)
        locked = stack.enter_context(opened)
        tables = locked.build_tables(entities)
        session = stack.enter_context(open_session(config, redactor))
        session.sign_in()
        access = _ask_rights(session, locked, target.name, selected, options)
        connection = target.open_writer() if options.repair else target.open_reader(lasting=True)
        stack.enter_context(connection)
        dialect_of(connection).tolerate_damage(connection)
        integrity = target.check_integrity(connection)
        loop = PageLoop(session.client, session.pool, config.workers, connection, on_event)
        filtered = {entity.name for entity in entities if entity.filtered}
        comparison = _Comparison(
            loop, connection, tables, filtered, len(selected) == len(entities), redactor, options
        )
        with transaction(connection):
            TEMPORARY_TABLES.create_all(connection)
            states = sync_state.load_states(connection, [entity.name for entity in selected])
            for entity in selected:
                comparison.add(entity, config, states[entity.name], access)
            sampled = load_sampled(connection) if VERIFY.name in locked.tables else {}
        comparison.compare_unfiltered()
        comparison.compare_filtered()
        comparison.compare_samples(sampled)
        known = [locked.lock[one.name] for one in selected if one.name in locked.lock]
        found = Verification(
            integrity,
            tuple(comparison.findings.values()),
            tuple(access.find_limits(known)),
            access.describe_unknown() if access.unknown else "",
        )
    _keep(target, found)
    return found


def _ask_rights(
    session: Session,
    locked: LockedSchema,
    database: str,
    selected: Sequence[EntityConfig],
    options: VerifyOptions,
) -> AccessRights:
    """What the app may read there; refuses to repair from another organization."""
    environment = session.pool.submit(get_environment, session)
    names = [entity.name for entity in selected]
    live = session.pool.submit(read_metadata, session.client, names)
    pending = ask_rights(session, environment, live, singles=SINGLES_OF_A_CHECK)
    _check_environment(locked.environment, wait_for(environment), database, options.repair)
    return pending.wait()


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
    options: VerifyOptions
    findings: dict[str, EntityFindings] = field(default_factory=dict)
    compared: dict[str, EntityComparison] = field(default_factory=dict)

    def add(
        self, entity: EntityConfig, config: Config, state: EntityState, access: AccessRights
    ) -> None:
        name, options = entity.name, self.options
        findings = self.findings[name] = EntityFindings(name, compared=options.compared)
        if (table := self.tables.get(name)) is None:
            findings.error = f"{name}: there is no table yet; it was never synced"
            return
        findings.rows = count_rows(self.connection, table)
        change = access.compare(table.entity, state.rights)
        if change.lost:
            findings.error = str(describe_loss(name, change))
        elif change.gained and options.compared != VALUES:
            findings.error = str(describe_gain(name, change))
        else:
            self.compared[name] = EntityComparison(
                findings,
                self.connection,
                table,
                EntityReader(
                    table.entity,
                    config.api_url,
                    parse_way(state.asked_how, datetime.now(UTC)),
                    config.page_size,
                ),
                entity.deletions == "ignore",
                options.repair,
                options.allow_deletes,
            )

    def compare_unfiltered(self) -> None:
        compared = {n: one for n, one in self.compared.items() if n not in self.filtered}
        self._tell_begin(compared)
        jobs = {name: Job(one.reader, one.compare_all()) for name, one in compared.items()}
        self.loop.run(jobs, self._end)

    def compare_filtered(self) -> None:
        """Compare what is linked to; where it is repaired, until nothing new is linked."""
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
                if is_all_read and (self.options.repair or not uncertain):
                    one.add_unlinked(list_keys(connection, references.unlinked(name)))
                one.findings.dangling = count_dangling(connection, self.tables, self.filtered, name)

    def compare_samples(self, sampled: Mapping[str, str]) -> None:
        """Compare the values of the rows whose turn it is: those after the ``sampled`` ones."""
        share = self.options.sample
        if share is None or not self.options.values:
            return
        jobs = {}
        for name, one in self.compared.items():
            if one.findings.error is None:
                count = math.ceil(one.findings.rows * share / 100)
                self.loop.emit(ReadExpected(name, count, one.findings.rows))
                jobs[name] = Job(one.reader, one.compare_sample(count, sampled.get(name)))
        self.loop.run(jobs, self._end)

    def _tell_begin(self, names: Iterable[str]) -> None:
        for name in names:
            rows = self.findings[name].rows
            self.loop.emit(EntityStarted(name))
            self.loop.emit(ReadExpected(name, rows, rows))

    def _end(self, name: str, error: EntityError | None) -> Event:
        findings = self.findings[name]
        findings.requests = self.compared[name].reader.requests
        if error is not None:
            findings.error = self.redactor.redact(str(error))
        return EntityVerified(name)
