"""Find the columns that entities have now: by metadata, or else guessed from a sample record."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import msgspec

from dataverse_sync.dataverse.client import DataverseClient
from dataverse_sync.dataverse.definitions import find_name, parse_definition
from dataverse_sync.errors import EntityError, PageError
from dataverse_sync.model import IDENTIFIER, Column, ColumnType, Entity

log = logging.getLogger(__name__)

# Junction tables: custom ones end in "set", older ones of the system in "collection".
_PLURALS = (("s", ""), ("ies", "y"), ("es", ""), ("set", ""), ("collection", ""))


@dataclass(frozen=True, slots=True)
class Discovery:
    """What was found about some entity sets."""

    entities: dict[str, Entity] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()  # not in the metadata
    empty: tuple[str, ...] = ()  # no metadata, and no record to learn from
    failures: dict[str, EntityError] = field(default_factory=dict)
    metadata_error: EntityError | None = None  # why no metadata could be read


def read_metadata(client: DataverseClient, names: Sequence[str]) -> Discovery:
    """Find these entity sets in the metadata, in one request."""
    try:
        found = client.get_definitions(names)
    except EntityError as error:
        return Discovery(unknown=tuple(names), metadata_error=error)
    entities = {}
    for definition in found:
        try:
            entity = parse_definition(definition)
        except msgspec.ValidationError as error:
            log.warning(
                "%s: its EntityDefinitions entry cannot be used (%s); it goes by its first record",
                find_name(definition),
                error,
            )
            continue
        if entity.name in names:
            entities[entity.name] = entity
    return Discovery(entities, unknown=tuple(name for name in names if name not in entities))


def read_samples(
    client: DataverseClient, pool: ThreadPoolExecutor, names: Sequence[str]
) -> Discovery:
    """Guess the columns of these entity sets from the first record of each."""

    def sample(name: str) -> Entity | EntityError | None:
        try:
            record = client.get_sample(name)
            return None if record is None else infer_entity(name, record)
        except EntityError as error:
            return error

    found = dict(zip(names, pool.map(sample, names), strict=True))
    return Discovery(
        entities={name: result for name, result in found.items() if isinstance(result, Entity)},
        empty=tuple(name for name, result in found.items() if result is None),
        failures={name: error for name, error in found.items() if isinstance(error, EntityError)},
    )


def infer_entity(name: str, record: Mapping[str, Any]) -> Entity:
    """Guess an entity from one record; columns that are null in it become TEXT."""
    columns = {column: value for column, value in record.items() if IDENTIFIER.fullmatch(column)}
    if not columns:
        raise PageError(f"{name}: the first record holds no column")
    key, key_found = detect_key(name, list(columns))
    typed = tuple(Column(column, infer_type(value)) for column, value in columns.items())
    return Entity(name, key, typed, "sample", key_found=key_found)


def detect_key(entity_set: str, columns: Sequence[str]) -> tuple[str, str]:
    """The likeliest key column, and how it was found, in words for the log."""
    singulars = [
        entity_set.removesuffix(suffix) + ending
        for suffix, ending in _PLURALS
        if entity_set.endswith(suffix)
    ]
    for singular in (entity_set, *singulars):
        if f"{singular}id" in columns:
            how = "named as the set" if singular == entity_set else f"'{singular}' + 'id'"
            return f"{singular}id", how
    ids = [column for column in columns if column.endswith("id") and not column.startswith("_")]
    if ids:
        return min(ids, key=len), "the shortest column that ends in 'id'"
    return columns[0], "the first column"


def infer_type(value: object) -> ColumnType:
    # A bool is an int too.
    return "INTEGER" if isinstance(value, int) else "REAL" if isinstance(value, float) else "TEXT"
