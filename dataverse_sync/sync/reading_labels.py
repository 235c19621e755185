"""Read the labels of choice columns from the service.

One filtered read of ``stringmaps`` brings the labels of all entities in every language.
Yes/no columns are not in it, and sometimes it may not be read: the other labels come from
the option sets of the metadata, one request for each entity and kind of column.

https://learn.microsoft.com/power-apps/developer/data-platform/webapi/query-metadata-web-api
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from dataverse_sync.dataverse import definitions, odata
from dataverse_sync.dataverse.client import DataverseClient
from dataverse_sync.dataverse.definitions import ChoicesDefinition, iter_options
from dataverse_sync.dataverse.descriptions import ColumnDescription, describe_columns
from dataverse_sync.dataverse.session import Session
from dataverse_sync.errors import EntityError, PageError, RequestError
from dataverse_sync.model import IDENTIFIER, PageRequest
from dataverse_sync.store.choices import Choice
from dataverse_sync.store.tables import EntityTable

log = logging.getLogger(__name__)

ENTITIES_PER_REQUEST = 100  # keeps a URL far below the 32 KB and 500 conditions of the service
DESCRIBED_AT_ONCE = 10  # entities whose columns are described with all that is known of them

Tell = Callable[[str], None]
Tables = Mapping[str, EntityTable]


@dataclass(frozen=True, slots=True)
class TableDescription:
    """What metadata tells of a table's labels and columns."""

    choices: ChoicesDefinition
    columns: Mapping[str, ColumnDescription]  # by JSON name


Described = Mapping[str, TableDescription]  # by entity set; without those unknown to metadata


class _StringMap(msgspec.Struct):
    """A record of ``stringmaps``: one label in one language."""

    objecttypecode: str
    attributename: str
    attributevalue: int
    value: str
    langid: int


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of the selected entities, as the service has them."""

    choices: Sequence[Choice]
    user_languages: Counter[int]
    failures: Mapping[str, str]  # entity → why some of its columns could not be read

    @property
    def languages(self) -> tuple[int, ...]:
        return tuple(sorted({choice.language for choice in self.choices}))


def get_descriptions(client: DataverseClient, tables: Tables) -> tuple[Described, tuple[str, ...]]:
    """The metadata of each entity, and a warning if it may not be read."""
    described = {}
    try:
        for batch in _batches(list(tables), DESCRIBED_AT_ONCE):
            for definition in _get_definitions(client, batch):
                try:
                    parsed = msgspec.convert(definition, ChoicesDefinition)
                except msgspec.ValidationError as error:
                    log.warning(
                        "%s: its EntityDefinitions entry cannot be used (%s); it gets no labels",
                        definitions.find_name(definition),
                        error,
                    )
                else:
                    columns = dict(describe_columns(definition["Attributes"]))
                    described[parsed.entity_set_name] = TableDescription(parsed, columns)
    except RequestError as error:
        if not _is_refused(error):
            raise
        return {}, (
            "the metadata cannot be read, so yes/no columns get no labels, and which column "
            f"names a record is guessed: {error}",
        )
    return {name: described[name] for name in tables if name in described}, ()


def _get_definitions(client: DataverseClient, names: Sequence[str]) -> list[dict[str, Any]]:
    """Definitions with all that is known of their columns, else with what labels take."""
    whole, part = definitions.CHOICES_EXPANDS

    def get(expand: str) -> list[dict[str, Any]]:
        return client.get_metadata(
            "EntityDefinitions",
            select=definitions.CHOICES_SELECT,
            filter=definitions.definitions_filter(names),
            expand=expand,
        )

    try:
        return get(whole)
    except RequestError as error:
        if error.status not in (400, 501):
            raise
        return get(part)


def get_labels(
    session: Session, tables: Tables, names: Sequence[str], described: Described, tell: Tell
) -> Labels:
    logical = {name: find_logical_name(tables[name], described) for name in names}
    sets = {logical_name: name for name, logical_name in logical.items() if logical_name}
    tell(f"Reading the labels of {len(sets)} tables ...")
    try:
        mapped = _get_stringmaps(session.client, sets)
    except RequestError as error:
        if not _is_refused(error) or not described:
            raise
        mapped = []
        log.info("labels are read from the metadata: %s", error)
        tell("stringmaps cannot be read; the labels are read from the metadata instead")
    mapped_columns = {(choice.entity, choice.column) for choice in mapped}
    wanted = _choose_option_sets(tables, names, described, mapped_columns)
    return _merge(mapped, wanted, _get_option_sets(session, described, wanted))


def _is_refused(error: RequestError) -> bool:
    """Whether the refusal is permanent (4xx except 401 and 429), so that the fallback is used."""
    return error.status is not None and 400 <= error.status < 500 and error.status not in (401, 429)


def find_logical_name(table: EntityTable, described: Described) -> str | None:
    known = described.get(table.name)
    name = known.choices.logical_name if known else table.entity.logical_name
    # It goes into a filter and a path.
    return name if name is not None and IDENTIFIER.fullmatch(name) else None


def _get_stringmaps(client: DataverseClient, sets: Mapping[str, str]) -> list[Choice]:
    """Every label of these entities in every language; ``sets`` are logical name → entity set."""
    found = []
    for batch in _batches(list(sets), ENTITIES_PER_REQUEST):
        url = odata.build_url(
            client.api_url,
            "stringmaps",
            select=_StringMap.__struct_fields__,
            filter=" or ".join(f"objecttypecode eq '{name}'" for name in batch),
            orderby="stringmapid",
        )
        request: PageRequest | None = PageRequest("stringmaps", url)
        while request is not None:
            page = client.get_page(request)
            for record in page.records:
                try:
                    choice = parse_stringmap(json.loads(bytes(record)), sets)
                except (ValueError, RecursionError) as error:
                    raise PageError(f"{request}: a record cannot be read ({error})") from error
                if choice is not None:
                    found.append(choice)
            client.release(page)
            request = page.next_request
    return found


def _choose_option_sets(
    tables: Tables,
    names: Sequence[str],
    described: Described,
    mapped: Collection[tuple[str, str]],
) -> dict[tuple[str, str], set[str]]:
    """Columns whose labels ``stringmaps`` lacks, by entity and kind; all yes/no columns."""
    wanted: dict[tuple[str, str], set[str]] = {}
    for name in names:
        kinds = described[name].choices.kinds if name in described else {}
        for column, kind in kinds.items():
            is_missing = kind == "Boolean" or (name, column) not in mapped
            if is_missing and column in tables[name].table.c:
                wanted.setdefault((name, kind), set()).add(column)
    return wanted


def _get_option_sets(
    session: Session, described: Described, wanted: Iterable[tuple[str, str]]
) -> list[list[dict[str, Any]] | EntityError]:
    """The option sets of each entity and kind, or why they could not be read."""

    def get(pair: tuple[str, str]) -> list[dict[str, Any]] | EntityError:
        name, kind = pair
        options = "TrueOption,FalseOption" if kind == "Boolean" else "Options"
        try:
            return session.client.get_metadata(
                f"EntityDefinitions(LogicalName='{described[name].choices.logical_name}')/Attributes"
                f"/Microsoft.Dynamics.CRM.{kind}AttributeMetadata",
                select=("LogicalName",),
                expand=f"OptionSet($select={options}),GlobalOptionSet($select={options})",
            )
        except EntityError as error:
            return error

    return list(session.pool.map(get, wanted))


def _merge(
    mapped: Sequence[Choice],
    wanted: Mapping[tuple[str, str], set[str]],
    answers: Sequence[list[dict[str, Any]] | EntityError],
) -> Labels:
    """The labels of ``stringmaps``, but those of the option sets for the columns in them."""
    told: list[Choice] = []
    user_languages: Counter[int] = Counter()
    failures = {}
    for ((name, _), columns), answer in zip(wanted.items(), answers, strict=True):
        if isinstance(answer, EntityError):
            failures[name] = str(answer)
            continue
        user_languages += count_user_languages(answer)
        found = parse_option_sets(name, answer)
        told += [choice for choice in found if choice.column in columns]
    told_columns = {(choice.entity, choice.column) for choice in told}
    kept = [choice for choice in mapped if (choice.entity, choice.column) not in told_columns]
    return Labels([*kept, *told], user_languages, failures)


def parse_stringmap(record: object, sets: Mapping[str, str]) -> Choice | None:
    """A label out of a record of ``stringmaps``; None if it is misshapen or of another entity.

    Args:
        record: The decoded record.
        sets: Logical name → entity set, of those that are wanted.
    """
    try:
        found = msgspec.convert(record, _StringMap)
    except msgspec.ValidationError:
        return None
    entity = sets.get(found.objecttypecode)
    if entity is None:
        return None
    return _build(entity, found.attributename, found.attributevalue, found.value, found.langid)


def parse_option_sets(entity: str, attributes: Iterable[object]) -> list[Choice]:
    """The labels in an answer of choice columns, each with its option set expanded."""
    found = (
        _build(entity, column, option.value, label.label, label.language_code)
        for column, option in iter_options(attributes)
        for label in option.labels
    )
    return [choice for choice in found if choice is not None]


def count_user_languages(attributes: Iterable[object]) -> Counter[int]:
    """How many of these options the service labels for the app itself in each language."""
    languages = (option.user_language for _, option in iter_options(attributes))
    return Counter(language for language in languages if language is not None)


def _build(
    entity: str, column: str, value: int | None, label: str | None, language: int | None
) -> Choice | None:
    if value is None or label is None or language is None:
        return None
    if max(abs(value), abs(language)) >= 2**63:
        return None
    # A lone surrogate is not UTF-8.
    return Choice(entity, column, value, label.encode("utf-8", "replace").decode(), language)


def _batches(names: Sequence[str], size: int) -> list[Sequence[str]]:
    return [names[start : start + size] for start in range(0, len(names), size)]
