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
    sa.Column("authority", sa.Text),  # where the service has said to sign in
    sa.Column("labelled_at", sa.Text),  # when labels were last made
    sa.Column("language", sa.Integer),  # that the labelled views show
    sa.Column("rights_unknown", sa.Text),  # what of the app's rights was said not to be told
)


@dataclass(frozen=True, slots=True)
class Environment:
    """An environment, by its address and the organization that answers there."""

    organization_id: str | None  # None: not known
    api_url: str
    authority: str | None = None  # where the service has said to sign in
    user_id: str | None = None  # of this app in it; not kept
    labelled_at: str | None = None
    language: int | None = None  # of the labelled views
    rights_unknown: str | None = None  # what of its rights was said not to be told


def load_environment(connection: sa.Connection) -> Environment | None:
    """The environment that the database holds; None before the first run that recorded it."""
    # By what is there: an older version did not keep all of it.
    everything = sa.select(sa.text("*")).select_from(ENVIRONMENT)
    row = connection.execute(everything).mappings().first()
    if row is None:
        return None
    return Environment(
        row["organization_id"],
        row["api_url"],
        row.get("authority"),
        labelled_at=row.get("labelled_at"),
        language=row.get("language"),
        rights_unknown=row.get("rights_unknown"),
    )


def save_environment(connection: sa.Connection, environment: Environment, now: datetime) -> None:
    connection.execute(sa.delete(ENVIRONMENT))
    values = {
        "organization_id": environment.organization_id,
        "api_url": environment.api_url,
        "recorded_at": to_text(now),
        "authority": environment.authority,
    }
    connection.execute(sa.insert(ENVIRONMENT), values)


def save_authority(connection: sa.Connection, authority: str) -> None:
    connection.execute(sa.update(ENVIRONMENT).values(authority=authority))


def save_rights_unknown(connection: sa.Connection, what: str | None) -> None:
    connection.execute(sa.update(ENVIRONMENT).values(rights_unknown=what))


def save_labelled(connection: sa.Connection, now: datetime, language: int | None) -> None:
    values = {"labelled_at": to_text(now), "language": language}
    connection.execute(sa.update(ENVIRONMENT).values(values))


def forget_labelled(connection: sa.Connection) -> None:
    """Let the next sync make labels anew."""
    connection.execute(sa.update(ENVIRONMENT).values(labelled_at=None))
