"""Find out what columns entities have now: one metadata request, samples where that fails."""

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
    """What was found of the entity sets that were asked about."""

    entities: dict[str, Entity] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()  # not in the metadata
    empty: tuple[str, ...] = ()  # no metadata, and no record to learn from
    failures: dict[str, EntityError] = field(default_factory=dict)
    metadata_error: EntityError | None = None  # the metadata could not be read at all


def read_metadata(client: DataverseClient, names: Sequence[str]) -> Discovery:
    """What the metadata knows of these entity sets, in one request."""
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
    """What the first record of each of these entity sets lets us guess."""

    def sample(name: str) -> Entity | EntityError | None:
        try:
            record = client.get_sample(name)
            return None if record is None else infer_entity(name, record)
        except EntityError as error:
            return error

    found = dict(zip(names, pool.map(sample, names), strict=True))
    return Discovery(
        entities={name: one for name, one in found.items() if isinstance(one, Entity)},
        empty=tuple(name for name, one in found.items() if one is None),
        failures={name: one for name, one in found.items() if isinstance(one, EntityError)},
    )
