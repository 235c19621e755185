"""The table ``_choices``: what the values of choice columns are called, in each language."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from dataverse_sync.store.database import dialect_of

_KEY = ("entity_name", "column_name", "value", "language")
CHOICES = sa.Table(
    "_choices",
    sa.MetaData(),
    sa.Column("entity_name", sa.Text, nullable=False),
    sa.Column("column_name", sa.Text, nullable=False),
    sa.Column("value", sa.Integer, nullable=False),
    sa.Column("label", sa.Text, nullable=False),
    sa.Column("language", sa.Integer, nullable=False),
    sa.PrimaryKeyConstraint(*_KEY),
)


@dataclass(frozen=True, slots=True)
class Choice:
    """The label of one value of a column in one language."""

    entity: str  # the entity set
    column: str
    value: int
    label: str
    language: int  # such as 1033


def choose_language(choices: Iterable[Choice], preferred: Counter[int]) -> int | None:
    """The language to show: the app user's own, else the one with most labels, lowest number first.

    ``preferred`` tells how often each language was the app user's. None if there is no label.
    """
    counts = Counter(choice.language for choice in choices)
    order = sorted(counts, key=lambda language: (-preferred[language], -counts[language], language))
    return order[0] if order else None


@dataclass(frozen=True, slots=True)
class Saved:
    """How many rows of ``_choices`` were added, changed, removed."""

    added: int = 0
    changed: int = 0
    removed: int = 0


def save(
    connection: sa.Connection,
    choices: Iterable[Choice],
    entities: Collection[str],
    whole: Collection[str],
) -> Saved:
    """Make ``_choices`` what was read of these entity sets; rows that do not change stay.

    ``whole`` are the entity sets that were read completely. Of the others, columns without a
    single label keep the rows that they have.
    """
    CHOICES.create(connection, checkfirst=True)
    stored = {
        (row.entity_name, row.column_name, row.value, row.language): row.label
        for row in connection.execute(sa.select(CHOICES))
        if row.entity_name in entities
    }
    wanted = {(one.entity, one.column, one.value, one.language): one.label for one in choices}
    read = {key[:2] for key in wanted}
    gone = [key for key in stored.keys() - wanted if key[0] in whole or key[:2] in read]
    rows = [
        {**dict(zip(_KEY, key, strict=True)), "label": label}
        for key, label in wanted.items()
        if stored.get(key) != label
    ]
    if gone:
        same = [CHOICES.c[name] == sa.bindparam(f"the {name}") for name in _KEY]
        keys = [{f"the {name}": part for name, part in zip(_KEY, key, strict=True)} for key in gone]
        connection.execute(sa.delete(CHOICES).where(*same), keys)
    if rows:
        connection.execute(dialect_of(connection).insert_or_update(CHOICES, ["label"]), rows)
    added = len(wanted.keys() - stored)
    return Saved(added, len(rows) - added, len(gone))


def load_columns(connection: sa.Connection, entity: str) -> list[str]:
    """The columns of an entity that have labels."""
    query = sa.select(CHOICES.c.column_name).where(CHOICES.c.entity_name == entity).distinct()
    return sorted(connection.execute(query).scalars())
