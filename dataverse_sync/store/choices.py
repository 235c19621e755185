"""The labels of choice columns: out of the service's answers, into the table ``_choices``.

The entity set ``stringmaps`` holds one record for each option and language; the
metadata holds the same inside each column's option set. Either is only data here:
whatever does not have the shape of a label is passed over.

https://learn.microsoft.com/power-apps/developer/data-platform/reference/entities/stringmap
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    bindparam,
    delete,
    select,
)

from dataverse_sync.store.database import dialect_of

_KEY = ("entity_name", "column_name", "value", "language")
CHOICES = Table(
    "_choices",
    MetaData(),
    Column("entity_name", Text, nullable=False),
    Column("column_name", Text, nullable=False),
    Column("value", Integer, nullable=False),
    Column("label", Text, nullable=False),
    Column("language", Integer, nullable=False),
    PrimaryKeyConstraint(*_KEY),
)
KINDS = ("Picklist", "State", "Status", "MultiSelectPicklist", "Boolean")

Key = tuple[str, str, int, int]


@dataclass(frozen=True, slots=True)
class Choice:
    """What one value of one column is called in one language."""

    entity: str  # the entity set
    column: str
    value: int
    label: str
    language: int  # such as 1033

    @property
    def key(self) -> Key:
        return self.entity, self.column, self.value, self.language


# Out of the answers


def parse_stringmap(record: object, sets: Mapping[str, str]) -> Choice | None:
    """One record of ``stringmaps``; None where it is of no use.

    Args:
        record: The decoded record.
        sets: Logical name → entity set, of those that are wanted.
    """
    if not isinstance(record, dict):
        return None
    entity = sets.get(str(record.get("objecttypecode")))
    return _build(
        entity,
        record.get("attributename"),
        record.get("attributevalue"),
        record.get("value"),
        record.get("langid"),
    )


def parse_option_sets(entity: str, attributes: Iterable[object]) -> list[Choice]:
    """The options of an answer of choice columns, each with its option set expanded."""
    found: list[Choice | None] = []
    for attribute, option in _iter_options(attributes):
        labels = _dict(option.get("Label")).get("LocalizedLabels")
        for label in labels if isinstance(labels, list) else ():
            text, language = _dict(label).get("Label"), _dict(label).get("LanguageCode")
            found.append(_build(entity, attribute, option.get("Value"), text, language))
    return [choice for choice in found if choice is not None]


def count_user_languages(attributes: Iterable[object]) -> Counter[int]:
    """In which language the service labels these options for the app itself."""
    counts: Counter[int] = Counter()
    for _, option in _iter_options(attributes):
        label = _dict(_dict(option.get("Label")).get("UserLocalizedLabel"))
        if isinstance(language := label.get("LanguageCode"), int):
            counts[language] += 1
    return counts


def _iter_options(attributes: Iterable[object]) -> Iterable[tuple[object, dict[str, Any]]]:
    for attribute in attributes:
        about = _dict(attribute)
        # A column has options of its own, or those of a global choice.
        options = _dict(about.get("OptionSet")) or _dict(about.get("GlobalOptionSet"))
        listed = options.get("Options")
        several = listed if isinstance(listed, list) else ()
        for option in (*several, options.get("FalseOption"), options.get("TrueOption")):
            if isinstance(option, dict):
                yield about.get("LogicalName"), option


def _build(
    entity: str | None, column: object, value: object, label: object, language: object
) -> Choice | None:
    if entity is None or not isinstance(column, str) or not isinstance(label, str):
        return None
    if not isinstance(value, int) or not isinstance(language, int):
        return None
    if not _is_whole(value) or not _is_whole(language):
        return None
    # A lone surrogate is no UTF-8.
    return Choice(entity, column, value, label.encode("utf-8", "replace").decode(), language)


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def choose_language(choices: Iterable[Choice], preferred: Counter[int]) -> int | None:
    """The language to show: the app user's own, else the one with most labels, lowest number first.

    Args:
        choices: All labels.
        preferred: How often each language was the app user's.

    Returns:
        None where there is no label at all.
    """
    counts = Counter(choice.language for choice in choices)
    if not counts:
        return None
    return min(counts, key=lambda language: (-preferred[language], -counts[language], language))


# The table


@dataclass(frozen=True, slots=True)
class Saved:
    """What became of the rows of ``_choices``."""

    added: int = 0
    changed: int = 0
    removed: int = 0


def save(
    connection: Connection,
    choices: Iterable[Choice],
    entities: Collection[str],
    whole: Collection[str],
) -> Saved:
    """Make ``_choices`` what was read; rows that do not change stay as they are.

    Args:
        connection: In a transaction.
        choices: What was read.
        entities: The entity sets that were read; rows of others stay.
        whole: Those of them that were read completely. Of the others, columns
            without a single label keep the rows that they have.
    """
    CHOICES.create(connection, checkfirst=True)
    stored = {
        (row.entity_name, row.column_name, row.value, row.language): row.label
        for row in connection.execute(select(CHOICES))
        if row.entity_name in entities
    }
    wanted = {choice.key: choice.label for choice in choices}
    read = {key[:2] for key in wanted}
    gone = [key for key in stored.keys() - wanted if key[0] in whole or key[:2] in read]
    new = wanted.keys() - stored
    changed = {key for key, label in wanted.items() if stored.get(key, label) != label}
    if gone:
        same = [CHOICES.c[name] == bindparam(f"at_{name}") for name in _KEY]
        keys = [dict(zip((f"at_{name}" for name in _KEY), key, strict=True)) for key in gone]
        connection.execute(delete(CHOICES).where(*same), keys)
    if new or changed:
        rows = [
            {**dict(zip(_KEY, key, strict=True)), "label": label}
            for key, label in wanted.items()
            if key in new or key in changed
        ]
        connection.execute(dialect_of(connection).insert_or_update(CHOICES, ["label"]), rows)
    return Saved(len(new), len(changed), len(gone))


def load_columns(connection: Connection, entity: str) -> list[str]:
    """The columns of an entity that have labels."""
    query = select(CHOICES.c.column_name).where(CHOICES.c.entity_name == entity).distinct()
    return sorted(connection.execute(query).scalars())
