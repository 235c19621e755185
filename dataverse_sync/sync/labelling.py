"""Make ``_choices``, ``_columns`` and the labelled views: by themselves in a run, or by ``labels``.

All is read first, then written in one transaction. The synced tables are not touched.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from dataverse_sync.dataverse.session import Session
from dataverse_sync.errors import ConfigError, EntityError, StorageError, SyncError
from dataverse_sync.moments import parse_timestamp
from dataverse_sync.store import choices, database, labelled_views
from dataverse_sync.store.choices import Saved
from dataverse_sync.store.dictionary import ColumnEntry, save_dictionary
from dataverse_sync.store.environment import Environment, save_labelled
from dataverse_sync.store.labelled_views import LookupTarget
from dataverse_sync.store.references import find_links
from dataverse_sync.store.tables import EntityTable
from dataverse_sync.sync.reading_labels import (
    Described,
    Labels,
    Tables,
    Tell,
    find_logical_name,
    get_descriptions,
    get_labels,
)
from dataverse_sync.sync.setup import utc_now

log = logging.getLogger(__name__)

LABELS_LAST = timedelta(days=7)
_UNKNOWN = "its logical name is not known, so its labels cannot be asked for"


@dataclass(frozen=True, slots=True)
class EntityLabels:
    """The labels and the view that one table has now."""

    entity: str
    columns: int = 0  # choice columns that have labels
    labels: int = 0  # values of them, each counted once however many languages it has
    lookups: int = 0  # columns whose records are named
    view: str | None = None
    note: str = ""  # why something is missing, though nothing failed
    error: str | None = None


@dataclass(frozen=True, slots=True)
class LabelsReport:
    """The labels that were read, and the views that were made."""

    entities: tuple[EntityLabels, ...]
    language: int | None  # of the views
    languages: tuple[int, ...]  # of all labels
    saved: Saved  # rows of ``_choices`` added, changed, removed
    warnings: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return all(entity.error is None for entity in self.entities)


@dataclass(frozen=True, slots=True)
class ReadLabels:
    """What the service tells, before anything of it is written."""

    names: Sequence[str]  # the tables that are labelled; all are named
    described: Described
    labels: Labels
    warnings: tuple[str, ...]


def is_due(recorded: Environment | None, now: datetime) -> bool:
    """Whether labels are made in a run: there are none, or they are too old."""
    made_at = parse_timestamp(recorded.labelled_at) if recorded else None
    return made_at is None or not made_at <= now < made_at + LABELS_LAST


def read_labels(session: Session, tables: Tables, names: Sequence[str], tell: Tell) -> ReadLabels:
    described, warnings = get_descriptions(session.client, tables)
    labels = get_labels(session, tables, names, described, tell)
    return ReadLabels(names, described, labels, warnings)


def write_labels(
    connection: Connection,
    tables: Tables,
    read: ReadLabels,
    reserved: Collection[str],
    language: int | None,
) -> tuple[dict[str, EntityLabels], Saved]:
    """Write what was read, in the transaction that is open; ``reserved`` are no names of views."""
    names, described, failures = read.names, read.described, read.labels.failures
    whole = [name for name in names if name in described and name not in failures]
    saved = choices.save(connection, read.labels.choices, names, whole)
    entries = [entry for name in names for entry in list_entries(tables[name], described)]
    save_dictionary(connection, entries, names)
    save_labelled(connection, utc_now(), language)
    return _make_views(connection, tables, names, reserved, described, read.labels, language), saved


def list_entries(table: EntityTable, described: Described) -> Iterator[ColumnEntry]:
    """The columns of a table and what is known of each."""
    known = described[table.name].columns if table.name in described else {}
    for position, column in enumerate(table.columns, 1):
        about = asdict(known[column.name]) if column.name in known else {}
        about["targets"] = about.get("targets") or column.targets
        yield ColumnEntry(table.name, column.name, position, **about)


def refresh_labels(
    session: Session, connection: Connection, tables: Tables, language: int | None
) -> None:
    """Make all labels anew in a run; a failure is a warning, and they are tried in the next one."""
    try:
        read = read_labels(session, tables, list(tables), log.info)
        have = read.labels.languages
        shown = language if language in have else choose_language(read.labels, None)
        with database.transaction(connection):
            done, _ = write_labels(connection, tables, read, list(tables), shown)
    except StorageError:
        raise
    except SyncError as error:
        log.warning("labels cannot be made: %s", error)
        return
    for warning in read.warnings:
        log.warning("labels: %s", warning)
    for entity in done.values():
        if entity.error is not None:
            log.warning("labels: %s", entity.error)


def choose_language(labels: Labels, wanted: int | None) -> int | None:
    have = labels.languages
    if wanted is None:
        return choices.choose_language(labels.choices, labels.user_languages)
    if have and wanted not in have:
        raise ConfigError(
            f"--language {wanted}: no label is in this language",
            f"There are labels in {', '.join(map(str, have))}.",
        )
    return wanted


# Making


def _make_views(
    connection: Connection,
    tables: Tables,
    names: Sequence[str],
    reserved: Collection[str],
    described: Described,
    labels: Labels,
    language: int | None,
) -> dict[str, EntityLabels]:
    lookups = find_lookups(tables, described)
    values = {(choice.entity, choice.column, choice.value) for choice in labels.choices}
    counted = Counter((entity, column) for entity, column, _ in values)
    done = {}
    for name in names:
        table, error, view = tables[name], labels.failures.get(name), None
        columns = [it for it in choices.load_columns(connection, name) if it in table.table.c]
        known = lookups.get(name, {})
        query = labelled_views.build_view(connection, table, columns, known, language)
        try:
            view = labelled_views.replace_view(connection, name, query, reserved)
        except EntityError as refused:
            error = str(refused)
        is_known = find_logical_name(table, described) is not None
        done[name] = EntityLabels(
            entity=name,
            columns=len(columns),
            labels=sum(counted[name, column] for column in columns),
            lookups=len(known),
            view=view,
            note="" if is_known else _UNKNOWN,
            error=error,
        )
    return done


def find_lookups(tables: Tables, described: Described) -> dict[str, dict[str, list[LookupTarget]]]:
    """For each table its columns that point to tables whose records have names."""
    named: dict[str, str] = {}
    for name, table in tables.items():
        known = described.get(name)
        told = known.choices.primary_name_attribute if known else None
        column = told if known else labelled_views.guess_name_column(table)
        if column is not None and column in table.table.c:
            named[name] = column
    lookups: dict[str, dict[str, list[LookupTarget]]] = {}
    for link in find_links([table.entity for table in tables.values()], named):
        if link.column in tables[link.source].table.c:
            target = LookupTarget(tables[link.target], named[link.target])
            lookups.setdefault(link.source, {}).setdefault(link.column, []).append(target)
    return lookups
