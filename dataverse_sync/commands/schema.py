"""``schema diff`` and ``schema accept``: the locked schema against the live one.

``accept`` needs no download: what a new column holds is in ``json_response``
already. Each entity is one transaction, its lock included.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, Table
from sqlalchemy.schema import CreateColumn

from dataverse_sync.config import Config, select_entities
from dataverse_sync.dataverse.definitions import accept_entity, diff_entity
from dataverse_sync.dataverse.session import open_environment
from dataverse_sync.errors import ConfigError, EntityError
from dataverse_sync.model import Drift, Entity, EntityConfig
from dataverse_sync.redaction import Redactor
from dataverse_sync.schema import discovery
from dataverse_sync.store import database, labelled_views, run_lock
from dataverse_sync.store import sync_state as states
from dataverse_sync.store import tables as schema_manager
from dataverse_sync.store.schema_lock import load_fitting_lock, load_locks, save_file
from dataverse_sync.store.tables import VALID_FROM, EntityTable, Lock, build_table, to_rows

log = logging.getLogger(__name__)

ROWS_AT_ONCE = 2000
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class LiveSchema:
    """The live schema of what is locked, and what could not be had of it."""

    entities: dict[str, Entity]
    drift: tuple[Drift, ...]
    failures: dict[str, str]  # entity → why it could not be compared


def get_drift(
    config: Config, entities: Sequence[EntityConfig], only: Sequence[str], redactor: Redactor
) -> LiveSchema:
    """Compare what is locked with what is live.

    Raises:
        ConfigError: Nothing is locked yet, or the lock is not usable.
        AuthError: The sign-in was refused.
    """
    selected = select_entities(entities, only)
    database.check_file(config.db_path, to_write=False)
    return _compare(config, selected, load_fitting_lock(config).lock, redactor)


def _compare(
    config: Config, selected: Sequence[EntityConfig], lock: Lock, redactor: Redactor
) -> LiveSchema:
    if not lock:
        raise ConfigError(
            f"{config.schema_path}: nothing is locked yet",
            "The first sync locks the schema: python -m dataverse_sync sync",
        )
    names = [entity.name for entity in selected]
    with open_environment(config, redactor) as environment:
        live = discovery.read_metadata(environment.client, names)
        guessed = [
            name for name in live.unknown if name not in lock or lock[name].source == "sample"
        ]
        sampled = discovery.read_samples(environment.client, environment.pool, guessed)
    known = {**live.entities, **sampled.entities}
    drift: list[Drift] = []
    failures = {name: str(error) for name, error in sampled.failures.items()}
    for name in names:
        if name in known:
            drift += diff_entity(lock[name], known[name]) if name in lock else []
            drift += [] if name in lock else [Drift(name, "entity_added")]
        elif live.metadata_error is not None and name not in failures and name not in sampled.empty:
            failures[name] = f"{name}: cannot be compared, {live.metadata_error}"
        elif name in lock and name not in failures and lock[name].source == "metadata":
            drift.append(Drift(name, "entity_removed"))
    return LiveSchema(known, tuple(drift), failures)


def accept(
    config: Config,
    entities: Sequence[EntityConfig],
    only: Sequence[str],
    redactor: Redactor,
    *,
    drop: bool,
    tell: Tell,
) -> list[str]:
    """Lock the live schema, and bring the tables to it from ``json_response``.

    Args:
        config: The environment and its copy.
        entities: All that is configured.
        only: The entities to accept; all where empty.
        redactor: Learns the run's secrets.
        drop: Drop columns that are gone from Dataverse; else they keep their values.
        tell: Told what is done, and how far a large table has come.

    Returns:
        What could not be accepted, one sentence an entity.

    Raises:
        ConfigError: There is no database, or nothing is locked yet.
        LockedError: Another run holds the database.
        StorageError: The database or the lock file cannot be written.
    """
    selected = select_entities(entities, only)
    database.check_file(config.db_path)
    if not config.db_path.exists():
        raise ConfigError(
            f"{config.db_path}: there is no database yet",
            "Run a sync first, or name the database with --db.",
        )
    with ExitStack() as stack:
        stack.enter_context(run_lock.hold(config.db_path, datetime.now(UTC)))
        locked = load_locks(config)
        live = _compare(config, selected, locked.lock, redactor)
        lock = dict(locked.lock)
        if lock and not locked.is_file_current:  # what another run left unwritten: before more
            save_file(config, lock)
        connection = stack.enter_context(database.open_writer(config.db_path))
        for entity in selected:
            if entity.name not in live.entities or entity.name not in lock:
                continue
            wanted = accept_entity(lock[entity.name], live.entities[entity.name], drop)
            lock[entity.name] = wanted
            with database.transaction(connection):
                database.prepare_own_tables(connection)
                _bring_to(connection, build_table(wanted), tell)
                for view in labelled_views.drop_broken(connection):
                    tell(
                        f"{view}: dropped, it shows a column that is gone; make it anew with: "
                        "python -m dataverse_sync labels"
                    )
                states.save_lock_copy(connection, lock, datetime.now(UTC))
            save_file(config, lock)
    return list(live.failures.values())


def _bring_to(connection: Connection, wanted: EntityTable, tell: Tell) -> None:
    """Make a table what the lock says, by adding columns where that is enough."""
    have = database.read_tables(connection).get(wanted.name)
    if have is None:
        wanted.table.create(connection)
        tell(f"{wanted.name}: table made")
        return
    types = {column.name: column.type for column in wanted.columns}
    new = [name for name in types if name not in have]
    kept = [name for name in types if name in have]
    is_key = have.get(wanted.entity.key, ("", False))[1]
    extra = set(have) - set(types) - set(schema_manager.SPECIAL_COLUMNS)
    same_types = all(have[name][0].upper() == types[name] for name in kept)
    if not new and not extra and same_types and is_key:
        tell(f"{wanted.name}: nothing to do")
    elif not extra and same_types and is_key:
        _add_columns(connection, wanted, new, tell)
    else:
        _rebuild(connection, wanted, set(have), tell)


def _add_columns(
    connection: Connection, wanted: EntityTable, new: Sequence[str], tell: Tell
) -> None:
    """``ALTER TABLE``, then fill the new columns of every row."""
    quote = connection.dialect.identifier_preparer.quote
    for name in new:
        definition = CreateColumn(wanted.table.c[name]).compile(dialect=connection.dialect)
        connection.exec_driver_sql(f"ALTER TABLE {quote(wanted.name)} ADD COLUMN {definition}")
    at = [index for index, column in enumerate(wanted.columns) if column.name in new]
    names = [wanted.columns[index].name for index in at]
    if "modifiedon" in names:
        at.append(VALID_FROM)
        names.append("valid_from")
    sets = ", ".join(f"{quote(name)} = ?" for name in names)
    key = quote(wanted.entity.key)
    sql = f"UPDATE {quote(wanted.name)} SET {sets} WHERE {key} = ?"  # noqa: S608  quoted, bound

    def fill(rows: Sequence[tuple[Any, ...]]) -> None:
        connection.exec_driver_sql(sql, [(*(row[i] for i in at), row[0]) for row in rows])

    done = _each_row(connection, wanted, wanted.name, fill, tell)
    _make_indexes(connection, wanted.table)
    tell(f"{wanted.name}: {len(new)} new columns filled in {done} rows: {', '.join(new)}")


def _rebuild(connection: Connection, wanted: EntityTable, have: set[str], tell: Tell) -> None:
    """A new table from the JSON of the old one; ``sync_time`` and columns that are gone stay."""
    quote = connection.dialect.identifier_preparer.quote
    old_name = f"_old_{wanted.name}"
    # Else a view of the table would follow the rename, and go with the old table.
    connection.exec_driver_sql("PRAGMA legacy_alter_table = ON")
    for index in wanted.table.indexes:
        connection.exec_driver_sql(f"DROP INDEX IF EXISTS {quote(str(index.name))}")
    connection.exec_driver_sql(f"ALTER TABLE {quote(wanted.name)} RENAME TO {quote(old_name)}")
    wanted.table.create(connection)
    gone = [column.name for column in wanted.entity.columns if column.gone and column.name in have]
    places = [at for at, column in enumerate(wanted.columns) if column.name in gone]
    kept = [quote(wanted.columns[at].name) for at in places]
    insert = schema_manager.compile_upsert(wanted.table)

    def fill(rows: Sequence[tuple[Any, ...]]) -> None:
        values = [list(row) for row in rows]
        if kept:
            for row in values:
                stored = connection.exec_driver_sql(
                    f"SELECT {', '.join(kept)} FROM {quote(old_name)} "  # noqa: S608  quoted
                    f"WHERE {quote(wanted.entity.key)} = ?",
                    (row[0],),
                ).one()
                for at, value in zip(places, stored, strict=True):
                    row[at] = value
        connection.exec_driver_sql(insert, [tuple(row) for row in values])

    done = _each_row(connection, wanted, old_name, fill, tell)
    connection.exec_driver_sql(f"DROP TABLE {quote(old_name)}")
    tell(f"{wanted.name}: rebuilt from its JSON, {done} rows")


def _each_row(
    connection: Connection,
    wanted: EntityTable,
    source: str,
    use: Callable[[Sequence[tuple[Any, ...]]], None],
    tell: Tell,
) -> int:
    """Decode every stored record anew; returns how many there were."""
    last, done = 0, 0
    quote = connection.dialect.identifier_preparer.quote
    sql = (
        f"SELECT rowid, sync_time, json_response FROM {quote(source)} "  # noqa: S608  quoted
        f"WHERE rowid > ? ORDER BY rowid LIMIT {ROWS_AT_ONCE:d}"
    )
    while batch := connection.exec_driver_sql(sql, (last,)).all():
        rows = []
        for _, sync_time, text in batch:
            try:
                rows += to_rows(wanted, [msgspec.Raw(text.encode())], sync_time)
            except EntityError as error:
                raise ConfigError(
                    f"{wanted.name}: a stored record cannot be read",
                    "Was it changed by hand? Mend it: python -m dataverse_sync verify --repair",
                ) from error
        use(rows)
        last = batch[-1][0]
        done += len(batch)
        if done % (ROWS_AT_ONCE * 25) == 0:
            tell(f"{wanted.name}: {done} rows so far")
    return done


def _make_indexes(connection: Connection, table: Table) -> None:
    for index in table.indexes:
        index.create(connection, checkfirst=True)


def to_document(live: LiveSchema) -> dict[str, Any]:
    """The differences as one JSON document."""
    return {
        "equal": not live.drift and not live.failures,
        "differences": [{**asdict(item), "severity": item.severity} for item in live.drift],
        "failures": live.failures,
    }


def format_drift(live: LiveSchema) -> list[str]:
    """The differences, a line each."""
    lines = [f"{item.severity:<8}  {item}" for item in live.drift]
    lines += [f"failure   {error}" for error in live.failures.values()]
    if not lines:
        return ["The locked schema is the live one."]
    return [*lines, "", "To lock the live schema: python -m dataverse_sync schema accept"]
