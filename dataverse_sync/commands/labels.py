"""``labels``: make the labels, the data dictionary and the labelled views now."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack

from dataverse_sync.commands.console import FAILED, OK, choose_tell, load
from dataverse_sync.commands.options import CONSOLE, PLACES, Options, add_shared, positive
from dataverse_sync.config import Config, select_entities
from dataverse_sync.dataverse.session import open_session
from dataverse_sync.errors import ConfigError
from dataverse_sync.model import EntityConfig
from dataverse_sync.redaction import Redactor
from dataverse_sync.store import database
from dataverse_sync.store.schema_lock import open_copy
from dataverse_sync.sync.labelling import (
    EntityLabels,
    LabelsReport,
    choose_language,
    read_labels,
    write_labels,
)
from dataverse_sync.sync.reading_labels import Tell


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
            read = read_labels(session, tables, names, tell)
        shown = choose_language(read.labels, language)
        connection = stack.enter_context(target.open_writer())
        with database.transaction(connection):
            database.prepare_own_tables(connection)
            reserved = [entity.name for entity in entities]
            done, saved = write_labels(connection, tables, read, reserved, shown)
    reports = tuple(
        done.get(entity.name, EntityLabels(entity.name, note="no table yet: it was never synced"))
        for entity in selected
    )
    return LabelsReport(reports, shown, read.labels.languages, saved, read.warnings)


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
