"""Compare the database with Dataverse: keys and versions of every row, table by table.

Only keys and versions are read. What looks different is asked for again by id,
and what has changed since the check began is not called a difference. A row is
also held against its own ``json_response``, which needs no network.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, Text, cast, literal, select
from sqlalchemy.exc import DBAPIError

from dataverse_sync.config import Config, select_entities
from dataverse_sync.dataverse.session import open_session
from dataverse_sync.errors import ConfigError, EntityError, GuardError
from dataverse_sync.model import EntityConfig, Event, Page, Reason
from dataverse_sync.moments import parse_timestamp, to_text
from dataverse_sync.redaction import Redactor
from dataverse_sync.store import database, deletions, run_lock, sync_state
from dataverse_sync.store.references import References, count_dangling
from dataverse_sync.store.rows import VALID_FROM, SqlRow, to_rows
from dataverse_sync.store.schema_lock import load_fitting_lock
from dataverse_sync.store.tables import EntityTable, build_table
from dataverse_sync.store.upsert import count_rows, rewrite
from dataverse_sync.sync.page_loop import PageLoop, Steps
from dataverse_sync.sync.reading import EntityReader, Query

log = logging.getLogger(__name__)

EXAMPLES = 5
ROWS_AT_ONCE = 2000


@dataclass(slots=True)
class EntityCheck:
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


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found of the whole database."""

    integrity: str  # SQLite's own word: "ok", or what is wrong
    entities: tuple[EntityCheck, ...]

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
    """Check every selected entity; with ``repair``, fetch and remove exactly what differs.

    Raises:
        ConfigError: There is no database, or a setting is not usable.
        AuthError: The sign-in was refused.
        LockedError: With ``repair``: another run holds the database.
    """
    selected = select_entities(entities, only)
    database.check_file(config.db_path)
    if not config.db_path.exists():
        raise ConfigError(f"{config.db_path}: there is no database to verify", "Run a sync first.")
    locked = load_fitting_lock(config)
    tables = {
        entity.name: build_table(locked.lock[entity.name])
        for entity in entities
        if entity.name in locked.lock and entity.name in locked.tables
    }
    with ExitStack() as stack:
        if repair:
            stack.enter_context(run_lock.hold(config.db_path, datetime.now(UTC)))
        session = stack.enter_context(open_session(config, redactor))
        session.sign_in()
        engine = (
            database.open_engine(config.db_path)
            if repair
            else database.open_reader(config.db_path, lasting=True)
        )
        connection = stack.enter_context(engine.connect())
        integrity = _check_integrity(connection)
        connection.rollback()
        loop = PageLoop(session.client, session.pool, config.workers, connection, _ignore)
        filtered = {entity.name for entity in entities if entity.filtered}
        checks = {entity.name: EntityCheck(entity.name) for entity in selected}
        with database.transaction(connection):
            database.TEMPORARY_TABLES.create_all(connection)
            works = {
                entity.name: _Work(
                    entity,
                    checks[entity.name],
                    tables[entity.name],
                    connection,
                    config.api_url,
                    allow_deletes,
                )
                for entity in selected
                if entity.name in tables
            }
        for name in checks.keys() - works.keys():
            checks[name].error = f"{name}: there is no table yet; it was never synced"

        def end(name: str, error: EntityError | None) -> None:
            checks[name].requests = works[name].reader.requests
            if error is not None:
                checks[name].error = redactor.redact(str(error))

        plain = [name for name in works if name not in filtered]
        loop.run({name: works[name].check_all(repair) for name in plain}, end)
        linked = [name for name in works if name in filtered]
        if linked:
            _check_filtered(loop, connection, works, tables, filtered, linked, repair, end)
            with database.transaction(connection):
                for name in linked:
                    checks[name].dangling = count_dangling(connection, tables, filtered, name)
        return Verification(integrity, tuple(checks[entity.name] for entity in selected))


def _ignore(_: Event) -> None:
    """Pages of a check are not shown."""


def _check_integrity(connection: Connection) -> str:
    try:
        found = connection.exec_driver_sql("PRAGMA integrity_check(5)").scalars().all()
    except DBAPIError as error:
        return str(error.orig)
    return "; ".join(str(line) for line in found)


def _check_filtered(
    loop: PageLoop,
    connection: Connection,
    works: Mapping[str, _Work],
    tables: Mapping[str, EntityTable],
    filtered: Collection[str],
    names: Sequence[str],
    repair: bool,
    end: Callable[[str, EntityError | None], None],
) -> None:
    """Ask for what is linked to; with ``repair`` again, until nothing new is linked."""
    with database.transaction(connection):
        references = References(connection, tables, filtered)
    while True:
        jobs = {}
        with database.transaction(connection):
            references.reach()
            for name in names:
                new, known = references.list_unasked(name)
                references.mark_asked(name, [*new, *known])
                if (new or known) and works[name].check.error is None:
                    jobs[name] = works[name].check_linked([*new, *known], repair)
        if not jobs:
            break
        loop.run(jobs, end)
    # A record that is missing or stale may be what links to a row.
    uncertain = any(work.check.missing or work.check.stale for work in works.values())
    with database.transaction(connection):
        for name in names:
            if works[name].check.error is None and (repair or not uncertain):
                unlinked = connection.execute(references.unlinked(name)).scalars().all()
                works[name].settle_unlinked(unlinked, repair)


class _Work:
    """The check of one entity."""

    def __init__(
        self,
        config: EntityConfig,
        check: EntityCheck,
        table: EntityTable,
        connection: Connection,
        api_url: str,
        allow_deletes: bool,
    ) -> None:
        self.check = check
        self.reader = EntityReader(table.entity, api_url)
        self._keeps = config.deletions == "ignore"
        self._table = table
        self._connection = connection
        self._allow_deletes = allow_deletes
        self._now = to_text(datetime.now(UTC))
        check.rows = count_rows(connection, table)

    def check_all(self, repair: bool) -> Steps:
        """All keys and versions of an unfiltered entity."""
        deletions.start_census(self._connection, self._table.name)
        yield from self.reader.read([Query(self._census, select=self.reader.thin)])
        gone = () if self._keeps else self._ids(deletions.missing_from_census(self._table))
        yield from self._settle(gone, repair)

    def check_linked(self, ids: Sequence[str], repair: bool) -> Steps:
        """Keys and versions of the records of a filtered entity that are linked to."""
        deletions.start_census(self._connection, self._table.name)
        yield from self.reader.read(self.reader.by_id(ids, self._census, self.reader.thin))
        asked = {key.lower() for key in ids}
        gone = [
            key
            for key in self._ids(deletions.missing_from_census(self._table))
            if key.lower() in asked and not self._keeps
        ]
        yield from self._settle(gone, repair)

    def settle_unlinked(self, keys: Sequence[str], repair: bool) -> None:
        """Note the rows of a filtered entity that nothing links to; with ``repair`` remove them."""
        if self._keeps:
            return
        self.check.unlinked += keys
        gone = set(keys)
        self.check.altered = [key for key in self.check.altered if key not in gone]
        if repair:
            try:
                self._remove(keys, "unlinked")
            except GuardError as error:
                self.check.error = str(error)

    def _census(self, page: Page) -> None:
        deletions.take_census(self._connection, self._table, page)

    def _ids(self, query: Any) -> list[str]:
        return list(self._connection.execute(query).scalars())

    def _settle(self, gone: Sequence[str], repair: bool) -> Steps:
        """Ask again for what looks different, tell what it is, and mend it if asked to."""
        check, began = self.check, self.reader.first_request_at
        suspects = deletions.find_stale(self._connection, self._table)
        there: dict[str, SqlRow] = {}

        def take(page: Page) -> None:
            for row in to_rows(self._table, page.records, self._now):
                there[row[0]] = row

        whole = () if repair else self._confirming()
        yield from self.reader.read(self.reader.by_id([*suspects, *gone], take, whole))
        stored = self._stored_versions([*suspects, *gone])
        mend: list[SqlRow] = []
        for key in suspects:
            row = there.get(key)
            if row is None or self._is_newer(row, began):
                check.changed_meanwhile += 1
            elif key not in stored:
                check.missing.append(key)
                mend.append(row)
            elif stored[key] != self._version(row):
                check.stale.append(key)
                mend.append(row)
        check.extra += [key for key in gone if key not in there and key in stored]
        altered = self._find_altered({*check.stale, *check.extra, *check.altered})
        check.altered += altered
        if not repair:
            return
        rows = {}

        def take_altered(page: Page) -> None:
            rows.update({row[0]: row for row in to_rows(self._table, page.records, self._now)})

        yield from self.reader.read(self.reader.by_id(altered, take_altered))
        mend += rows.values()
        rewrite(self._connection, self._table, mend)
        check.repaired += len(mend)
        self._remove([key for key in gone if key in check.extra], "not_returned")

    def _remove(self, keys: Sequence[str], reason: Reason) -> None:
        deletions.doom_ids(self._connection, self._table, keys, reason)
        deletions.check_guard(self._connection, self._table, self._allow_deletes)
        self.check.repaired += deletions.remove_doomed(self._connection, self._table, self._now)
        rows = count_rows(self._connection, self._table)
        sync_state.set_state(self._connection, self._table.name, records_count=rows)

    def _confirming(self) -> tuple[str, ...]:
        """Keys, versions and the moment of change are enough to tell a difference."""
        more = ("modifiedon",) if self._table.entity.has("modifiedon") else ()
        return tuple(dict.fromkeys((*self.reader.thin, *more)))

    def _version(self, row: SqlRow) -> str | None:
        name = self._table.entity.version_column
        for column, value in zip(self._table.columns, row, strict=False):
            if column.name == name:
                return None if value is None else str(value)
        return None

    def _is_newer(self, row: SqlRow, began: datetime | None) -> bool:
        for column, value in zip(self._table.columns, row, strict=False):
            if column.name == "modifiedon":
                changed = parse_timestamp(value)
                return changed is not None and began is not None and changed >= began
        return False

    def _stored_versions(self, keys: Sequence[str]) -> dict[str, str | None]:
        """The version of each of these rows as the table has it now."""
        table = self._table.table
        key = table.c[self._table.entity.key]
        name = self._table.entity.version_column
        version = literal(None) if name is None else cast(table.c[name], Text)
        found: dict[str, str | None] = {}
        for start in range(0, len(keys), 500):
            query = select(key, version).where(key.in_(keys[start : start + 500]))
            found.update((row[0], row[1]) for row in self._connection.execute(query))
        return found

    def _find_altered(self, known: Collection[str]) -> list[str]:
        """Rows whose columns are not what their own ``json_response`` says."""
        table = self._table.table
        names = [column.name for column in self._table.columns]
        columns = [table.c[name] for name in (*names, "valid_from", "json_response")]
        key = table.c[self._table.entity.key]
        altered: list[str] = []
        last = ""
        while batch := self._connection.execute(
            select(*columns).where(key > last).order_by(key).limit(ROWS_AT_ONCE)
        ).all():
            last = batch[-1][0]
            altered += [
                row[0] for row in batch if row[0] not in known and not self._agrees(tuple(row))
            ]
        return altered

    def _agrees(self, stored: SqlRow) -> bool:
        *values, valid_from, text = stored
        try:
            (row,) = to_rows(self._table, [msgspec.Raw(str(text).encode())], "")
        except EntityError:
            return False
        same = (
            column.gone or _as_stored(told, column.type) == value
            for column, told, value in zip(self._table.columns, row, values, strict=False)
        )
        return all(same) and row[VALID_FROM] == valid_from


def _as_stored(value: Any, column_type: str) -> Any:
    """What SQLite's column affinity makes of a value; numbers compare by their worth."""
    if column_type != "TEXT" and isinstance(value, str):
        try:
            return float(value)  # digits beyond 64 bits
        except ValueError:
            return value
    return value


def to_document(verification: Verification) -> dict[str, Any]:
    """What was found, as one JSON document."""
    return {
        "ok": verification.ok,
        "integrity": verification.integrity,
        "entities": [
            {**asdict(entity), "differences": entity.differences, "ok": entity.ok}
            for entity in verification.entities
        ],
    }


def format_verification(verification: Verification) -> list[str]:
    """What was found, line by line, with examples."""
    lines = []
    for entity in verification.entities:
        if entity.error is not None:
            lines.append(f"failure  {entity.error}")
            continue
        kinds = {
            "missing": entity.missing,
            "extra": entity.extra,
            "stale": entity.stale,
            "altered": entity.altered,
            "unlinked": entity.unlinked,
        }
        told = [f"{len(ids)} {kind}" for kind, ids in kinds.items() if ids]
        word = "ok" if entity.ok else "differs"
        text = ", ".join(told) or "the same"
        if entity.repaired:
            text += f"; {entity.repaired} repaired"
        if entity.changed_meanwhile:
            text += f"; {entity.changed_meanwhile} changed meanwhile"
        lines.append(f"{word:<7}  {entity.entity}: {entity.rows} rows, {text}")
        for kind, ids in kinds.items():
            if ids:
                more = f" and {len(ids) - EXAMPLES} more" if len(ids) > EXAMPLES else ""
                lines.append(f"           {kind}: {', '.join(ids[:EXAMPLES])}{more}")
        for where, count in entity.dangling.items():
            lines.append(f"           {count} ids in {where} that Dataverse does not return")
    lines.append("")
    lines.append(f"SQLite's integrity check: {verification.integrity}")
    differ = sum(not entity.ok for entity in verification.entities)
    agree = len(verification.entities) - differ
    lines.append(f"{agree} {'table agrees' if agree == 1 else 'tables agree'}, {differ} do not")
    return lines
