"""Guess an entity's key and types from a sample record, if metadata does not tell them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dataverse_sync.errors import PageError
from dataverse_sync.model import IDENTIFIER, Column, ColumnType, Entity

# Junction tables: custom ones end in "set", older ones of the system in "collection".
_PLURALS = (("s", ""), ("ies", "y"), ("es", ""), ("set", ""), ("collection", ""))


def infer_entity(name: str, record: Mapping[str, Any]) -> Entity:
    """Guess an entity from one record; columns that are null in it become TEXT.

    Raises:
        PageError: The record holds no column.
    """
    columns = {
        column: value
        for column, value in record.items()
        if "@" not in column and IDENTIFIER.fullmatch(column)
    }
    if not columns:
        raise PageError(f"{name}: the first record holds no column")
    key, key_found = detect_key(name, list(columns))
    return Entity(
        name=name,
        key=key,
        columns=tuple(Column(column, infer_type(value)) for column, value in columns.items()),
        source="sample",
        key_found=key_found,
    )


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
    if isinstance(value, int):  # bool too
        return "INTEGER"
    if isinstance(value, float):
        return "REAL"
    return "TEXT"
