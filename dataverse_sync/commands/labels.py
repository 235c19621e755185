"""``labels``: what choices are called, into ``_choices``, and the views that show it.

One filtered read of ``stringmaps`` brings the labels of all entities in every language.
Yes/no columns are not in it, nor is anything where it may not be read: those come from
the option sets of the metadata, one request for each entity and kind of column. All is
read first, then written in one transaction. The synced tables are not touched.

https://learn.microsoft.com/power-apps/developer/data-platform/webapi/query-metadata-web-api
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from dataverse_sync.config import Config, select_entities
from dataverse_sync.dataverse import definitions as metadata
from dataverse_sync.dataverse import odata
from dataverse_sync.dataverse.client import DataverseClient
from dataverse_sync.dataverse.session import Environment, open_environment
from dataverse_sync.errors import ConfigError, EntityError, PageError, RequestError
from dataverse_sync.model import IDENTIFIER, EntityConfig, PageRequest
from dataverse_sync.redaction import Redactor
from dataverse_sync.store import choices as labels
from dataverse_sync.store import database
from dataverse_sync.store import labelled_views as views
from dataverse_sync.store.choices import KINDS, Choice, Saved
from dataverse_sync.store.labelled_views import LookupTarget
from dataverse_sync.store.references import find_links
from dataverse_sync.store.schema_lock import load_schema
from dataverse_sync.store.tables import EntityTable, build_table

log = logging.getLogger(__name__)

ENTITIES_PER_REQUEST = 100  # keeps a URL far below the 32 KB and 500 conditions of the service
_STRINGMAP_COLUMNS = ("objecttypecode", "attributename", "attributevalue", "value", "langid")
_MULTI_SELECT = "MultiSelectPicklist"

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class EntityLabels:
    """What one table has of labels now."""

    entity: str
    columns: int = 0  # choice columns that have labels
    labels: int = 0  # values of them, each counted once however many languages it has
    lookups: int = 0  # columns whose records are named
    view: str | None = None
    note: str = ""  # why something is not there, though nothing failed
    error: str | None = None


@dataclass(frozen=True, slots=True)
class LabelsReport:
    """What was read and made."""

    entities: tuple[EntityLabels, ...]
    language: int | None  # what the views show
    languages: tuple[int, ...]  # what there is
    saved: Saved  # rows of ``_choices`` added, changed, removed
    warnings: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return all(entity.error is None for entity in self.entities)


def run_labels(
    config: Config,
    entities: Sequence[EntityConfig],
    only: Sequence[str],
    redactor: Redactor,
    tell: Tell,
    language: int | None = None,
) -> LabelsReport:
    """Fetch the labels of choice columns, and make the views ``<table>_labelled``.

    Args:
        config: The environment and its copy.
        entities: All that is configured.
        only: The entities to do; all where empty. Of others nothing changes.
        redactor: Learns the run's secrets.
        tell: Told what is being done.
        language: What the views show, such as 1033; None: the app user's own.

    Raises:
        ConfigError: There is no database, nothing is synced yet, or no label is in
            that language: nothing was written.
        AuthError: The sign-in was refused.
        LockedError: Another run holds the database.
        RequestError: Neither ``stringmaps`` nor the metadata could be read.
        StorageError: The database cannot be written.
    """
    selected = select_entities(entities, only)
    copy = database.open_target(config.db_path)
    copy.check()
    if not copy.exists():
        raise ConfigError(f"{config.db_path}: there is no database yet", "Run a sync first.")
    with ExitStack() as stack:
        stack.enter_context(copy.hold(datetime.now(UTC)))
        locked = load_schema(copy, config.schema_path)
        tables = {
            entity.name: build_table(locked.lock[entity.name])
            for entity in entities
            if entity.name in locked.lock and entity.name in locked.tables
        }
        if not tables:
            raise ConfigError(f"{config.db_path}: nothing is synced yet", "Run a sync first.")
        names = [entity.name for entity in selected if entity.name in tables]
        with open_environment(config, redactor) as environment:
            found = _get_labels(environment, tables, names, tell)
        shown = _choose_language(found, language)
        connection = stack.enter_context(copy.open_writer())
        with database.transaction(connection):
            whole = [name for name in names if name in found.whole]
            saved = labels.save(connection, found.choices, names, whole)
            reserved = [entity.name for entity in entities]
            done = _make_views(connection, tables, names, reserved, found, shown)
    reports = tuple(
        done.get(entity.name, EntityLabels(entity.name, note="no table yet: it was never synced"))
        for entity in selected
    )
    languages = tuple(sorted({choice.language for choice in found.choices}))
    return LabelsReport(reports, shown, languages, saved, tuple(found.warnings))


# What is read


@dataclass(frozen=True, slots=True)
class _Described:
    """What the metadata says of an entity, as far as labels go."""

    logical_name: str
    name_column: str | None
    kinds: Mapping[str, str]  # choice column → its kind


@dataclass(slots=True)
class _Found:
    described: dict[str, _Described] = field(default_factory=dict)
    is_described: bool = True  # the metadata may be read
    choices: list[Choice] = field(default_factory=list)
    user_languages: Counter[int] = field(default_factory=Counter)
    whole: set[str] = field(default_factory=set)  # entities of which every choice column was read
    failures: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def _get_labels(
    environment: Environment, tables: Mapping[str, EntityTable], names: Sequence[str], tell: Tell
) -> _Found:
    found = _Found()
    client = environment.client
    try:
        found.described = _get_descriptions(client, tables)
    except RequestError as error:
        if not _is_refused(error):
            raise
        found.is_described = False
        found.warnings.append(
            "the metadata cannot be read, so yes/no columns get no labels, and which column "
            f"names a record is guessed: {error}"
        )
    logical = {name: _find_logical_name(tables[name], found) for name in names}
    sets = {one: name for name, one in logical.items() if one is not None}
    tell(f"Reading the labels of {len(sets)} tables ...")
    try:
        mapped = _get_stringmaps(client, sets)
    except RequestError as error:
        if not _is_refused(error) or not found.is_described:
            raise
        mapped = []
        log.info("labels are read from the metadata: %s", error)
        tell("stringmaps cannot be read; the labels are read from the metadata instead")
    _get_option_sets(environment, tables, names, mapped, found)
    return found


def _is_refused(error: RequestError) -> bool:
    """Whether the service will not have it, now or later: there is another way."""
    return error.status is not None and 400 <= error.status < 500 and error.status not in (401, 429)


def _get_descriptions(
    client: DataverseClient, tables: Mapping[str, EntityTable]
) -> dict[str, _Described]:
    names, described = list(tables), {}
    for batch in _batches(names):
        for definition in client.get_metadata(
            "EntityDefinitions",
            select=("LogicalName", "EntitySetName", "PrimaryNameAttribute"),
            filter=metadata.definitions_filter(batch),
            expand="Attributes($select=LogicalName,AttributeType,AttributeTypeName)",
        ):
            try:
                described[definition["EntitySetName"]] = _parse_description(definition)
            except (KeyError, TypeError, AttributeError) as error:
                log.warning(
                    "%s: its EntityDefinitions entry cannot be used (%s); it gets no labels",
                    *metadata.describe_misfit(definition, error),
                )
    return {name: described[name] for name in names if name in described}


def _parse_description(definition: Mapping[str, Any]) -> _Described:
    kinds = {}
    for attribute in definition["Attributes"]:
        kind = attribute["AttributeType"]
        if (attribute.get("AttributeTypeName") or {}).get("Value") == f"{_MULTI_SELECT}Type":
            kind = _MULTI_SELECT
        if kind in KINDS:
            kinds[attribute["LogicalName"]] = kind
    name_column = definition.get("PrimaryNameAttribute")
    return _Described(str(definition["LogicalName"]), name_column, kinds)


def _find_logical_name(table: EntityTable, found: _Found) -> str | None:
    described = found.described.get(table.name)
    name = described.logical_name if described else table.entity.logical_name
    # It goes into a filter and a path.
    return name if name is not None and IDENTIFIER.fullmatch(name) else None


def _get_stringmaps(client: DataverseClient, sets: Mapping[str, str]) -> list[Choice]:
    """Every label of these entities in every language; ``sets`` are logical name → entity set."""
    found = []
    for batch in _batches(list(sets)):
        url = odata.build_url(
            client.api_url,
            "stringmaps",
            select=_STRINGMAP_COLUMNS,
            filter=" or ".join(f"objecttypecode eq '{name}'" for name in batch),
            orderby="stringmapid",
        )
        request: PageRequest | None = PageRequest("stringmaps", url)
        while request is not None:
            page = client.get_page(request)
            for record in page.records:
                try:
                    choice = labels.parse_stringmap(json.loads(bytes(record)), sets)
                except (ValueError, RecursionError) as error:
                    raise PageError(f"{request}: a record cannot be read ({error})") from error
                if choice is not None:
                    found.append(choice)
            client.release(page)
            request = page.next_request
    return found


def _get_option_sets(
    environment: Environment,
    tables: Mapping[str, EntityTable],
    names: Sequence[str],
    mapped: Sequence[Choice],
    found: _Found,
) -> None:
    """Add what ``stringmaps`` has not: yes/no columns, and columns it says nothing of."""
    mapped_columns = {(choice.entity, choice.column) for choice in mapped}
    wanted: dict[tuple[str, str], set[str]] = {}  # entity, kind → columns
    for name in names:
        if described := found.described.get(name):
            for column, kind in described.kinds.items():
                if column in tables[name].table.c and (
                    kind == "Boolean" or (name, column) not in mapped_columns
                ):
                    wanted.setdefault((name, kind), set()).add(column)

    def ask(name: str, kind: str) -> list[dict[str, Any]] | EntityError:
        logical_name = found.described[name].logical_name
        options = "TrueOption,FalseOption" if kind == "Boolean" else "Options"
        try:
            return environment.client.get_metadata(
                f"EntityDefinitions(LogicalName='{logical_name}')/Attributes"
                f"/Microsoft.Dynamics.CRM.{kind}AttributeMetadata",
                select=("LogicalName",),
                expand=f"OptionSet($select={options}),GlobalOptionSet($select={options})",
            )
        except EntityError as error:
            return error

    answers = environment.pool.map(lambda pair: ask(*pair), wanted)
    found.whole = {name for name in names if name in found.described}
    told: list[Choice] = []
    for (name, kind), answer in zip(wanted, answers, strict=True):
        if isinstance(answer, EntityError):
            found.failures[name] = str(answer)
            found.whole.discard(name)
            continue
        found.user_languages += labels.count_user_languages(answer)
        told += [
            choice
            for choice in labels.parse_option_sets(name, answer)
            if choice.column in wanted[name, kind]
        ]
    told_columns = {(choice.entity, choice.column) for choice in told}
    found.choices = [
        *(choice for choice in mapped if (choice.entity, choice.column) not in told_columns),
        *told,
    ]


def _batches(names: Sequence[str]) -> list[Sequence[str]]:
    size = ENTITIES_PER_REQUEST
    return [names[start : start + size] for start in range(0, len(names), size)]


def _choose_language(found: _Found, wanted: int | None) -> int | None:
    have = sorted({choice.language for choice in found.choices})
    if wanted is not None and have and wanted not in have:
        raise ConfigError(
            f"--language {wanted}: no label is in this language",
            f"There are labels in {', '.join(map(str, have))}.",
        )
    if wanted is not None:
        return wanted
    return labels.choose_language(found.choices, found.user_languages)


# What is made


def _make_views(
    connection: Connection,
    tables: Mapping[str, EntityTable],
    names: Collection[str],
    reserved: Collection[str],
    found: _Found,
    language: int | None,
) -> dict[str, EntityLabels]:
    lookups = _find_lookups(tables, found)
    columns = {
        name: [one for one in labels.load_columns(connection, name) if one in tables[name].table.c]
        for name in names
    }
    made: dict[str, str] = {}
    failures = {}
    for name in names:
        query = views.build_view(
            connection, tables[name], columns[name], lookups.get(name, {}), language
        )
        try:
            with connection.begin_nested():
                made |= views.replace_views(connection, {name: query}, reserved)
        except DBAPIError as error:
            failures[name] = f"{name}: its view cannot be made ({error.orig})"
    values = Counter(
        (entity, column)
        for entity, column, _ in {
            (choice.entity, choice.column, choice.value) for choice in found.choices
        }
    )
    return {
        name: EntityLabels(
            entity=name,
            columns=len(columns[name]),
            labels=sum(values[name, column] for column in columns[name]),
            lookups=len(lookups.get(name, {})),
            view=made.get(name),
            note=_explain(tables[name], found),
            error=failures.get(name) or found.failures.get(name),
        )
        for name in names
    }


def _explain(table: EntityTable, found: _Found) -> str:
    if _find_logical_name(table, found) is None:
        return "its logical name is not known, so its labels cannot be asked for"
    return ""


def _find_lookups(
    tables: Mapping[str, EntityTable], found: _Found
) -> dict[str, dict[str, list[LookupTarget]]]:
    """For each table its columns that point to tables whose records have names."""
    named: dict[str, str] = {}
    for name, table in tables.items():
        described = found.described.get(name)
        column = described.name_column if described else views.guess_name_column(table)
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
    """What was made, a line for each table, and what is missing."""
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
        others = [str(one) for one in report.languages if one != report.language]
        told += f"; the views show language {report.language}"
        told += f" (there is also {', '.join(others)})" if others else ""
    return [*lines, "", told]
