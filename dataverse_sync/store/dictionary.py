"""The table ``_columns``: what the columns of the synced tables mean, by Dataverse's own word."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import sqlalchemy as sa

DICTIONARY = sa.Table(
    "_columns",
    sa.MetaData(),
    sa.Column("entity_name", sa.Text, nullable=False),
    sa.Column("column_name", sa.Text, nullable=False),  # the table's column
    sa.Column("position", sa.Integer, nullable=False),  # within its table, from 1 on
    sa.Column("display_name", sa.Text),
    sa.Column("description", sa.Text),
    sa.Column("type", sa.Text),  # Dataverse's AttributeTypeName, without "Type"
    sa.Column("format", sa.Text),
    sa.Column("date_behavior", sa.Text),  # UserLocal, DateOnly or TimeZoneIndependent
    sa.Column("precision", sa.Integer),  # decimal places
    sa.Column("targets", sa.Text),  # of a lookup: JSON array of logical names
    sa.Column("is_required", sa.Integer),  # 0 or 1, as all flags
    sa.Column("is_secured", sa.Integer),
    sa.PrimaryKeyConstraint("entity_name", "column_name"),
)


@dataclass(frozen=True, slots=True)
class ColumnEntry:
    """What a column of a table means; None where Dataverse does not tell."""

    entity: str  # the entity set
    column: str
    position: int
    display_name: str | None = None
    description: str | None = None
    type: str | None = None  # such as String, Picklist, DateTime, Lookup
    format: str | None = None
    date_behavior: str | None = None
    precision: int | None = None
    targets: tuple[str, ...] = ()
    is_required: bool | None = None
    is_secured: bool | None = None


def save_dictionary(
    connection: sa.Connection, entries: Iterable[ColumnEntry], entities: Collection[str]
) -> None:
    """Replace what is told of these entity sets."""
    DICTIONARY.create(connection, checkfirst=True)
    connection.execute(sa.delete(DICTIONARY).where(DICTIONARY.c.entity_name.in_(entities)))
    rows = [
        {
            "entity_name": entry.entity,
            "column_name": entry.column,
            "position": entry.position,
            "display_name": entry.display_name,
            "description": entry.description,
            "type": entry.type,
            "format": entry.format,
            "date_behavior": entry.date_behavior,
            "precision": entry.precision,
            "targets": json.dumps(entry.targets) if entry.targets else None,
            "is_required": None if entry.is_required is None else int(entry.is_required),
            "is_secured": None if entry.is_secured is None else int(entry.is_secured),
        }
        for entry in entries
    ]
    if rows:
        connection.execute(sa.insert(DICTIONARY), rows)


def load_dictionary(connection: sa.Connection) -> Mapping[str, list[ColumnEntry]]:
    """The entries of each entity set by position; the table has to be there."""
    found: dict[str, list[ColumnEntry]] = {}
    order = (DICTIONARY.c.entity_name, DICTIONARY.c.position)
    for row in connection.execute(sa.select(DICTIONARY).order_by(*order)):
        entry = ColumnEntry(
            entity=row.entity_name,
            column=row.column_name,
            position=row.position,
            display_name=row.display_name,
            description=row.description,
            type=row.type,
            format=row.format,
            date_behavior=row.date_behavior,
            precision=row.precision,
            targets=tuple(json.loads(row.targets or "[]")),
            is_required=None if row.is_required is None else bool(row.is_required),
            is_secured=None if row.is_secured is None else bool(row.is_secured),
        )
        found.setdefault(entry.entity, []).append(entry)
    return found
