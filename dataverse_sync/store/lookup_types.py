"""What kind of record a lookup points to, as SQL on the row that holds it: a logical name.

A lookup with one possible target says it by being there, an owner by the owning user or team;
else the annotation in ``json_response`` does. It is null where that is not known: in rows that
were stored before annotations were asked for.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from dataverse_sync.dataverse.odata import LOOKUP_TARGET
from dataverse_sync.model import OWNER, OWNERS, Column, Entity
from dataverse_sync.store.database import Dialect


def build_type(
    dialect: Dialect, entity: Entity, column: Column, row: sa.FromClause
) -> sa.ColumnElement[Any]:
    """The logical name of the table that a lookup of a row points to; null if it is null."""
    value = row.c[column.name]
    if column.name == OWNER and entity.tells_owner and all(name in row.c for name in OWNERS):
        told = [(row.c[name] == value, sa.literal(kind)) for name, kind in OWNERS.items()]
        return sa.case(*told)
    if len(column.targets) == 1:
        return sa.case((value.is_not(None), sa.literal(column.targets[0])))
    named = dialect.find_member(row.c.json_response, f"{column.name}@{LOOKUP_TARGET}")
    return sa.case((value.is_not(None), named))
