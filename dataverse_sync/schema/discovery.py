"""Find the columns that entities have now: by metadata, or else by a sample record."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import msgspec

from dataverse_sync.dataverse.client import DataverseClient
from dataverse_sync.dataverse.definitions import describe_misfit, parse_definition
from dataverse_sync.errors import EntityError
from dataverse_sync.model import Entity
from dataverse_sync.schema.inference import infer_entity

log = logging.getLogger(__name__)


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
                *describe_misfit(definition, error),
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
        failures={
            name: result for name, result in found.items() if isinstance(result, EntityError)
        },
    )
