"""The table ``_choices``: what the values of choice columns are called, in each language."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

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

Key = tuple[str, str, int, int]


@dataclass(frozen=True, slots=True)
class Choice:
    """The label of one value of a column in one language."""

    entity: str  # the entity set
    column: str
    value: int
    label: str
    language: int  # such as 1033

    @property
    def key(self) -> Key:
        return self.entity, self.column, self.value, self.language


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
