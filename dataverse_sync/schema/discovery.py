"""Find the columns that entities have now: by metadata, or else guessed from a sample record.

A guess is made only where metadata is refused or does not know the set. Where it cannot be had
for another reason it is asked for in smaller batches, since one definition can be what the
service fails at; what cannot be had even so is a failure of that entity.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from dataverse_sync.dataverse.client import DEFINITIONS_AT_ONCE, DataverseClient
from dataverse_sync.dataverse.definitions import (
    Security,
    find_kind,
    find_name,
    parse_definition,
    parse_security,
)
from dataverse_sync.errors import EntityError, PageError, RequestError
from dataverse_sync.model import IDENTIFIER, Column, ColumnType, Entity

log = logging.getLogger(__name__)

_REFUSALS = (400, 401, 403, 404, 501)  # statuses that will be the same in the next run
_SMALLER_BATCH = 10  # entity sets, after which they are asked for one by one
# Failures in a row after which no further batch is tried: if nothing was answered at all, and
# else. The second is a batch and all of its sets, and one more.
_FAILURES_AT_FIRST = 5
_FAILURES_IN_A_ROW = _SMALLER_BATCH + 2

# Junction tables: custom ones end in "set", older ones of the system in "collection".
_PLURALS = (("s", ""), ("ies", "y"), ("es", ""), ("set", ""), ("collection", ""))


@dataclass(frozen=True, slots=True)
class Discovery:
    """What was found about some entity sets."""

    entities: dict[str, Entity] = field(default_factory=dict)
    securities: dict[str, Security] = field(default_factory=dict)  # of those in the metadata
    unknown: tuple[str, ...] = ()  # not in the metadata, or refused: to be guessed
    refused: tuple[str, ...] = ()  # of the unknown, those whose metadata was refused
    empty: tuple[str, ...] = ()  # no metadata, and no record to learn from
    failures: dict[str, EntityError] = field(default_factory=dict)  # nothing can be said now
    metadata_error: EntityError | None = None  # the first refusal or failure of metadata


def read_metadata(client: DataverseClient, names: Sequence[str]) -> Discovery:
    """Find these entity sets in the metadata: one request for a hundred, if it is answered."""
    answers = _get_definitions(client, names)
    entities, securities = {}, {}
    for definition in answers.definitions:
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
            securities[entity.name] = parse_security(definition)
    if any(one.secured is not None for one in securities.values()):  # the service tells them
        securities = {n: replace(one, secured=one.secured or {}) for n, one in securities.items()}
    unread = {**answers.refused, **answers.failures}
    return Discovery(
        entities,
        securities,
        unknown=tuple(n for n in names if n not in entities and n not in answers.failures),
        refused=tuple(answers.refused),
        failures=answers.failures,
        metadata_error=next((unread[name] for name in names if name in unread), None),
    )


@dataclass(frozen=True, slots=True)
class _Answers:
    """What became of the requests for definitions."""

    definitions: list[dict[str, Any]] = field(default_factory=list)
    refused: dict[str, EntityError] = field(default_factory=dict)
    failures: dict[str, EntityError] = field(default_factory=dict)


def _get_definitions(client: DataverseClient, names: Sequence[str]) -> _Answers:
    """Ask in batches, and after a failure in smaller ones that wait for one retry only."""
    answers = _Answers()
    batches = deque(_split(names, DEFINITIONS_AT_ONCE))
    is_trial = False
    failed, limit = 0, _FAILURES_AT_FIRST  # in a row
    while batches:
        batch = batches.popleft()
        try:
            answers.definitions.extend(client.get_definitions(batch, is_trial=is_trial))
            failed, limit = 0, _FAILURES_IN_A_ROW
        except EntityError as error:
            if isinstance(error, RequestError) and error.status in _REFUSALS:
                answers.refused.update(dict.fromkeys(batch, error))
                failed, limit = 0, _FAILURES_IN_A_ROW
                continue
            log.info("definitions of %d entity sets cannot be had: %s", len(batch), error.message)
            failed, is_trial = failed + 1, True
            if len(batch) > 1:
                size = _SMALLER_BATCH if len(batch) > _SMALLER_BATCH else 1
                batches.extendleft(reversed(_split(batch, size)))
            else:
                answers.failures[batch[0]] = error
            if failed >= limit:  # the service, not a definition
                answers.failures.update((name, error) for left in batches for name in left)
                break
    return answers


def _split(names: Sequence[str], size: int) -> list[Sequence[str]]:
    return [names[start : start + size] for start in range(0, len(names), size)]


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
    kind = find_kind(None, None, columns)
    return Entity(name, key, typed, "sample", key_found=key_found, kind=kind)


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
