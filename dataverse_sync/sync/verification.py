"""Compare the copy with Dataverse: keys and versions of every row, table by table.

Only keys and versions are read. What looks different is asked for again by id,
and what has changed since the check began is not called a difference. A row is
also held against its own ``json_response``, which needs no network.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sqlalchemy import Connection

from dataverse_sync.config import Config, select_entities
from dataverse_sync.dataverse.session import Session, open_session
from dataverse_sync.errors import (
    ConfigError,
    EntityError,
    GuardError,
    RequestError,
    StorageError,
)
from dataverse_sync.model import EntityConfig, Event, Page, Reason
from dataverse_sync.moments import parse_timestamp, to_text
from dataverse_sync.redaction import Redactor
from dataverse_sync.store import deletions, sync_state
from dataverse_sync.store.database import TEMPORARY_TABLES, Target, open_target, transaction
from dataverse_sync.store.environment import Environment
from dataverse_sync.store.proof import Proof, keep_proofs
from dataverse_sync.store.references import References, count_dangling
from dataverse_sync.store.row_checks import find_altered, list_keys, load_versions
from dataverse_sync.store.rows import SqlRow, to_rows
from dataverse_sync.store.schema_lock import open_copy
from dataverse_sync.store.tables import EntityTable
from dataverse_sync.store.upsert import count_rows, rewrite
from dataverse_sync.sync.comparing import ComparisonRead
from dataverse_sync.sync.filtered import read_closure
from dataverse_sync.sync.identity import describe_other, get_environment, judge
from dataverse_sync.sync.page_loop import Job, PageLoop
from dataverse_sync.sync.reading import EntityReader, Query, QueryRead, Reads
from dataverse_sync.sync.ways import Way, parse_way

log = logging.getLogger(__name__)


@dataclass(slots=True)
class EntityFindings:
    """What was found of one entity; the lists hold every id."""

    entity: str
    rows: int = 0
    missing: list[str] = field(default_factory=list)  # in Dataverse, not in the table
    extra: list[str] = field(default_factory=list)  # in the table, not in Dataverse
    stale: list[str] = field(default_factory=list)  # of another version
    altered: list[str] = field(default_factory=list)  # not what its own JSON says
    unlinked: list[str] = field(default_factory=list)  # filtered, and nothing links to it
    changed_meanwhile: int = 0  # since the check began: no difference
    dangling: dict[str, int] = field(default_factory=dict)  # "table.column" → ids not there
    repaired: int = 0
    requests: int = 0
    error: str | None = None

    @property
    def differences(self) -> int:
        found = (self.missing, self.extra, self.stale, self.altered, self.unlinked)
        return sum(len(ids) for ids in found)

    @property
    def ok(self) -> bool:
        return self.error is None and self.repaired >= self.differences

    @property
    def proof(self) -> Proof:
        """What of it is kept."""
        return Proof(
            self.entity,
            self.rows,
            len(self.missing),
            len(self.stale),
            len(self.extra) + len(self.unlinked),
            len(self.altered),
            "failed" if self.error is not None else "same" if self.ok else "differs",
        )


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found of the whole database."""

    integrity: str  # the database's own word: "ok", or what is wrong
    entities: tuple[EntityFindings, ...]

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
) -> Verification:
    """Compare every selected entity; with ``repair``, fetch and remove exactly what differs.

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
        _check_environment(locked.environment, session, target.name, repair)
        connection = target.open_writer() if repair else target.open_reader(lasting=True)
        stack.enter_context(connection)
        integrity = target.check_integrity(connection)
        loop = PageLoop(session.client, session.pool, config.workers, connection, _tell_nothing)
        filtered = {entity.name for entity in entities if entity.filtered}
        is_whole = len(selected) == len(entities)
        comparison = _Comparison(loop, connection, tables, filtered, is_whole, redactor)
        with transaction(connection):
            TEMPORARY_TABLES.create_all(connection)
            states = sync_state.load_states(connection, [entity.name for entity in selected])
            for entity in selected:
                way = parse_way(states[entity.name].asked_how, datetime.now(UTC))
                comparison.add(entity, config, way, repair, allow_deletes)
        comparison.compare_unfiltered()
        comparison.compare_filtered(repair)
        found = Verification(integrity, tuple(comparison.findings.values()))
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
    recorded: Environment | None, session: Session, database: str, repair: bool
) -> None:
    """Refuse to repair from another organization than the one that was copied; else say it."""
    found = get_environment(session)
    if recorded is not None and judge(recorded, found) == "other":
        error = describe_other(recorded, found, database)
        if repair:
            raise error
        log.warning("%s", error.message)


def _tell_nothing(_: Event) -> None: ...


@dataclass
class _Comparison:
    """The selected entities of a verification."""

    loop: PageLoop
    connection: Connection
    tables: Mapping[str, EntityTable]
    filtered: set[str]
    is_whole: bool  # every configured entity is compared
    redactor: Redactor
    findings: dict[str, EntityFindings] = field(default_factory=dict)
    compared: dict[str, _EntityComparison] = field(default_factory=dict)

    def add(
        self, entity: EntityConfig, config: Config, way: Way, repair: bool, allow_deletes: bool
    ) -> None:
        findings = self.findings[entity.name] = EntityFindings(entity.name)
        if (table := self.tables.get(entity.name)) is None:
            findings.error = f"{entity.name}: there is no table yet; it was never synced"
            return
        findings.rows = count_rows(self.connection, table)
        self.compared[entity.name] = _EntityComparison(
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
        jobs = {name: Job(one.reader, one.compare_all()) for name, one in compared.items()}
        self.loop.run(jobs, self._end)

    def compare_filtered(self, repair: bool) -> None:
        """Compare what is linked to; with ``repair`` again, until nothing new is linked."""
        names = [name for name in self.compared if name in self.filtered]
        if not names:
            return

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

    def _end(self, name: str, error: EntityError | None) -> None:
        findings = self.findings[name]
        findings.requests = self.compared[name].reader.requests
        if error is not None:
            findings.error = self.redactor.redact(str(error))


class _RowsRead(QueryRead):
    """Records by id, as the rows that they would be; nothing is written."""

    def __init__(
        self, reader: EntityReader, table: EntityTable, queries: Sequence[Query], now: str
    ) -> None:
        super().__init__(reader, queries)
        self._table = table
        self._now = now
        self.rows: dict[str, SqlRow] = {}

    def store(self, page: Page) -> None:
        self.rows.update((row[0], row) for row in to_rows(self._table, page.records, self._now))


@dataclass
class _EntityComparison:
    """The comparison of one entity; nothing is ever removed from one that ``keeps``."""

    findings: EntityFindings
    connection: Connection
    table: EntityTable
    reader: EntityReader
    keeps: bool
    repair: bool
    allow_deletes: bool
    now: str = field(default_factory=lambda: to_text(datetime.now(UTC)))

    def compare_all(self) -> Reads:
        """Compare all keys and versions of an unfiltered entity; if refused, by whole records."""
        if self.reader.way.versions:
            try:
                yield ComparisonRead(self.reader, self.connection, self.table)
            except RequestError:
                if self.reader.way.versions:
                    raise
        if not self.reader.way.versions:
            yield ComparisonRead(self.reader, self.connection, self.table, [Query()])
        yield from self._tell_and_mend(self._list_missing())

    def compare_linked(self, ids: Sequence[str]) -> Reads:
        """Compare keys and versions of the records of a filtered entity that are linked to."""
        queries = self.reader.by_id(ids, self.reader.keys_and_versions)
        asked = {key.lower() for key in ids}
        yield ComparisonRead(self.reader, self.connection, self.table, queries, wanted=asked)
        yield from self._tell_and_mend(
            [key for key in self._list_missing() if key.lower() in asked]
        )

    def add_unlinked(self, keys: Sequence[str]) -> None:
        """Note the rows of a filtered entity that nothing links to; with ``repair`` remove them."""
        if self.keeps:
            return
        self.findings.unlinked += keys
        self.findings.altered = [key for key in self.findings.altered if key not in {*keys}]
        if self.repair:
            try:
                self._remove(keys, "unlinked")
            except GuardError as error:
                self.findings.error = str(error)

    def _list_missing(self) -> Sequence[str]:
        missing = deletions.missing_from_comparison(self.table)
        return () if self.keeps else list_keys(self.connection, missing)

    def _tell_and_mend(self, missing: Sequence[str]) -> Reads:
        """Ask again for what looks different, tell what it is, and mend it if asked to.

        Args:
            missing: Keys of rows that the comparison did not return.
        """
        found = self.findings
        suspects = deletions.find_differing(self.connection, self.table)
        ids = [*suspects, *missing]
        confirm = self._read_rows(ids, () if self.repair else self._confirming)
        yield confirm
        stored = load_versions(self.connection, self.table, ids)
        mend: list[SqlRow] = []
        for key in suspects:
            row = confirm.rows.get(key)
            if row is None or self._is_newer(row):
                found.changed_meanwhile += 1
            elif key not in stored:
                found.missing.append(key)
                mend.append(row)
            elif stored[key] != self._find_version(row):
                found.stale.append(key)
                mend.append(row)
        extra = [key for key in missing if key not in confirm.rows and key in stored]
        found.extra += extra
        known = {*found.stale, *found.extra, *found.altered}
        altered = find_altered(self.connection, self.table, known)
        found.altered += altered
        if self.repair:
            again = self._read_rows(altered)
            yield again
            mend += again.rows.values()
            rewrite(self.connection, self.table, mend)
            found.repaired += len(mend)
            self._remove(extra, "not_returned")

    def _read_rows(self, ids: Sequence[str], select: tuple[str, ...] = ()) -> _RowsRead:
        return _RowsRead(self.reader, self.table, self.reader.by_id(ids, select), self.now)

    def _remove(self, keys: Sequence[str], reason: Reason) -> None:
        deletions.mark_ids_for_removal(self.connection, self.table, keys, reason)
        added = len(self.findings.missing)
        deletions.check_guard(self.connection, self.table, self.allow_deletes, added=added)
        removed = deletions.remove_marked(self.connection, self.table, self.now)
        self.findings.repaired += removed
        rows = count_rows(self.connection, self.table)
        sync_state.set_state(self.connection, self.table.name, records_count=rows)

    @property
    def _confirming(self) -> tuple[str, ...]:
        """Keys, versions and the moment of change are enough to tell a difference."""
        more = ("modifiedon",) if self.table.entity.has("modifiedon") else ()
        return tuple(dict.fromkeys((*self.reader.keys_and_versions, *more)))

    def _find_version(self, row: SqlRow) -> str | None:
        value = self.table.value(row, self.table.entity.version_column)
        return None if value is None else str(value)

    def _is_newer(self, row: SqlRow) -> bool:
        """Whether a record changed since the comparison began."""
        changed, began = self.table.value(row, "modifiedon"), self.reader.first_request_at
        moment = parse_timestamp(changed)
        # modifiedon is cut to the second.
        return moment is not None and began is not None and moment >= began.replace(microsecond=0)
