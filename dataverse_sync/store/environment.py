"""Which environment a database holds: kept in ``_sync_environment``, one row."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from dataverse_sync.moments import to_text
from dataverse_sync.store.database import OWN_TABLES

ENVIRONMENT = sa.Table(
    "_sync_environment",
    OWN_TABLES,
    sa.Column("organization_id", sa.Text),  # null while the service does not tell it
    sa.Column("api_url", sa.Text, nullable=False),
    sa.Column("recorded_at", sa.Text, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Environment:
    """An environment, by its address and the organization that answers there."""

    organization_id: str | None  # None: not known
    api_url: str


def load_environment(connection: sa.Connection) -> Environment | None:
    """The environment that the database holds; None before the first run that recorded it."""
    row = connection.execute(sa.select(ENVIRONMENT)).first()
    return None if row is None else Environment(row.organization_id, row.api_url)


def save_environment(connection: sa.Connection, environment: Environment, now: datetime) -> None:
    connection.execute(sa.delete(ENVIRONMENT))
    values = {
        "organization_id": environment.organization_id,
        "api_url": environment.api_url,
        "recorded_at": to_text(now),
    }
    connection.execute(sa.insert(ENVIRONMENT), values)
