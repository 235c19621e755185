"""``labels``: fetch the labels of choices into ``_choices``, and make the views that show them.

All labels are read first, then written in one transaction. The synced tables are not touched.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from sqlalchemy import Connection

from dataverse_sync.commands.console import FAILED, OK, Tell, choose_tell, load
from dataverse_sync.commands.labels.reading import (
    Described,
    Labels,
    Tables,
    find_logical_name,
    get_descriptions,
    get_labels,
)
from dataverse_sync.commands.options import CONSOLE, PLACES, Options, add_shared, positive
from dataverse_sync.config import Config, select_entities
from dataverse_sync.dataverse.session import open_session
from dataverse_sync.errors import ConfigError, EntityError
from dataverse_sync.model import EntityConfig
from dataverse_sync.redaction import Redactor
from dataverse_sync.store import choices, database, labelled_views
from dataverse_sync.store.choices import Saved
from dataverse_sync.store.labelled_views import LookupTarget
from dataverse_sync.store.references import find_links
from dataverse_sync.store.schema_lock import open_copy

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


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)
    add_shared(parser, *PLACES, "--entity")
    parser.add_argument(
        "--language",
        type=positive,
        metavar="N",
        help="the language that the views show, such as 1033 (default: the app user's)",
    )
    add_shared(parser, "--workers", *CONSOLE)


def run(options: Options, redactor: Redactor) -> int:
    config, entities = load(options, redactor, workers=options.workers)
    tell = choose_tell(options)
    report = run_labels(config, entities, options.entity, redactor, tell, options.language)
    for line in format_labels(report):
        tell(line)
    return OK if report.ok else FAILED


def run_labels(
    config: Config,
    entities: Sequence[EntityConfig],
    only: Sequence[str],
    redactor: Redactor,
    tell: Tell,
    language: int | None = None,
) -> LabelsReport:
    """Fetch the labels of choice columns, and make the views ``<table>_labelled``.

    ``only`` these entities; of others nothing changes. ``language`` is that of the views, such
    as 1033; None: the app user's own.
    """
    selected = select_entities(entities, only)
    target = database.open_target(config.db_path)
    with ExitStack() as stack:
        opened = open_copy(target, config.schema_path, write=True)
        tables = stack.enter_context(opened).build_tables(entities)
        if not tables:
            raise ConfigError(f"{target.name}: nothing is synced yet", "Run a sync first.")
        names = [entity.name for entity in selected if entity.name in tables]
        with open_session(config, redactor) as session:
            session.sign_in()
            described, warnings = get_descriptions(session.client, tables)
            labels = get_labels(session, tables, names, described, tell)
        shown = _choose_language(labels, language)
        connection = stack.enter_context(target.open_writer())
        with database.transaction(connection):
            whole = [name for name in names if name in described and name not in labels.failures]
            saved = choices.save(connection, labels.choices, names, whole)
            reserved = [entity.name for entity in entities]
            done = _make_views(connection, tables, names, reserved, described, labels, shown)
    reports = tuple(
        done.get(entity.name, EntityLabels(entity.name, note="no table yet: it was never synced"))
        for entity in selected
    )
    return LabelsReport(reports, shown, labels.languages, saved, warnings)


def _choose_language(labels: Labels, wanted: int | None) -> int | None:
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
        column = known.primary_name_attribute if known else labelled_views.guess_name_column(table)
        if column is not None and column in table.table.c:
            named[name] = column
    lookups: dict[str, dict[str, list[LookupTarget]]] = {}
    for link in find_links([table.entity for table in tables.values()], named):
        if link.column in tables[link.source].table.c:
            target = LookupTarget(tables[link.target], named[link.target])
            lookups.setdefault(link.source, {}).setdefault(link.column, []).append(target)
    return lookups


# In words


def format_labels(report: LabelsReport) -> list[str]:
    """A line for each table, with its view or the reason why it has none."""
    lines = []
    for entity in report.entities:
        if entity.error is not None:
            lines.append(f"failure  {entity.error}")
        if entity.view is not None:
            lines.append(
                f"ok       {entity.view}: {entity.columns} choice columns "
                f"({entity.labels} values), {entity.lookups} lookups"
            )
        elif entity.error is None and not entity.note:
            lines.append(f"ok       {entity.entity}: no choices and no lookups, so no view")
        if entity.note:
            lines.append(f"note     {entity.entity}: {entity.note}")
    lines += [f"warning  {warning}" for warning in report.warnings]
    saved = report.saved
    told = f"_choices: {saved.added} added, {saved.changed} changed, {saved.removed} removed"
    if report.language is not None:
        others = [str(it) for it in report.languages if it != report.language]
        told += f"; the views show language {report.language}"
        told += f" (there is also {', '.join(others)})" if others else ""
    return [*lines, "", told]
