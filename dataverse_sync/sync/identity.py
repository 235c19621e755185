"""One database, one environment: whether what answers is what the copy was made from."""

from __future__ import annotations

import logging
from typing import Literal

from sqlalchemy import Connection

from dataverse_sync.dataverse.session import Session
from dataverse_sync.errors import ConfigError
from dataverse_sync.store.environment import Environment, save_authority, save_environment
from dataverse_sync.sync.setup import Setup, utc_now

log = logging.getLogger(__name__)

Verdict = Literal["same", "new", "moved", "other"]


def get_environment(session: Session) -> Environment:
    """Ask which organization answers, and who this app is there."""
    identity = session.get_identity()
    found = (identity.organization_id, identity.user_id) if identity else (None, None)
    return Environment(found[0], session.client.api_url, session.auth.authority, found[1])


def judge(recorded: Environment | None, found: Environment) -> Verdict:
    """Compare an environment with the recorded one.

    ``new`` was never recorded; ``moved`` has another address, and nobody knows whether it is
    another organization.
    """
    if recorded is None:
        return "new"
    ids = (recorded.organization_id, found.organization_id)
    if None not in ids:
        return "same" if ids[0] == ids[1] else "other"
    return "same" if recorded.api_url == found.api_url else "moved"


def check_environment(recorded: Environment | None, found: Environment, setup: Setup) -> bool:
    """Whether everything is to be compared, since the database may hold another environment.

    Another organization is a ConfigError, unless the run is told that it is a new environment.
    """
    refuse_another(recorded, found, setup)
    verdict = judge(recorded, found)
    if found.organization_id is None and verdict in ("new", "moved"):
        log.warning(
            "%s: the organization cannot be asked for, so another environment at this address "
            "would not be noticed",
            found.api_url,
        )
    if verdict == "moved":
        log.warning("%s: not the recorded address; everything is compared", found.api_url)
    return verdict == "moved" or setup.new_environment


def refuse_another(recorded: Environment | None, found: Environment, setup: Setup) -> None:
    """Raise a ConfigError for another organization, unless the run is told that it is new."""
    if recorded and judge(recorded, found) == "other" and not setup.new_environment:
        raise describe_other(recorded, found, str(setup.config.db_path))


def describe_other(recorded: Environment, found: Environment, database: str) -> ConfigError:
    """The error for a database that was made from another organization."""
    return ConfigError(
        f"{database}: holds the environment {recorded.api_url}, organization "
        f"{recorded.organization_id}; {found.api_url} is organization {found.organization_id}",
        "Check DATAVERSE_API_URL, or name another database with --db. If this database is to hold "
        "the other environment from now on: sync --new-environment.",
    )


def record_environment(
    connection: Connection, recorded: Environment | None, found: Environment, *, is_new: bool
) -> None:
    """Keep what answered; a known organization is not forgotten at the same address.

    ``is_new`` says that the run was told of another environment.
    """
    if (
        recorded is None
        or is_new
        or recorded.api_url != found.api_url
        or found.organization_id not in (None, recorded.organization_id)
    ):
        save_environment(connection, found, utc_now())
    elif found.authority not in (None, recorded.authority):
        save_authority(connection, found.authority)
