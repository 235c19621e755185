"""Ask on workers what this app may read, while other answers are waited for."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from dataverse_sync.dataverse.rights import Depths, Privilege, get_depths, get_readable
from dataverse_sync.dataverse.session import Session, wait_for
from dataverse_sync.errors import EntityError, SyncError
from dataverse_sync.schema.discovery import Discovery
from dataverse_sync.store.environment import Environment
from dataverse_sync.sync.rights import AccessRights, combine_rights

SINGLES_OF_A_RUN = 1  # privileges asked for one by one, so that a run takes 3 requests at most
SINGLES_OF_A_CHECK = 100

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PendingRights:
    """Rights that were asked for."""

    live: Future[Discovery]
    depths: Future[dict[str, Depths]]  # by the key of a privilege
    readable: Future[set[str]]  # ids of attributes

    @property
    def futures(self) -> tuple[Future[Discovery], Future[dict[str, Depths]], Future[set[str]]]:
        return (self.live, self.depths, self.readable)

    def wait(self) -> AccessRights:
        """What was told, and what was not."""
        unknown: dict[str, str] = {}
        live = _wait_or_note(self.live, "metadata", unknown) or Discovery()
        if live.metadata_error is not None:
            unknown["metadata"] = live.metadata_error.message
        elif live.unknown:
            unknown["tables that are not in the metadata"] = ", ".join(live.unknown)
        if any(security.secured is None for security in live.securities.values()):
            unknown["tables that the metadata says too little of"] = "an older service"
        depths = readable = None
        if live.securities:
            depths = _wait_or_note(self.depths, "how deep it may read", unknown)
            readable = _wait_or_note(self.readable, "secured columns", unknown)
        needed = _list_needed(live).keys()
        if depths is not None and (missing := needed - depths.keys()):
            asked = f"{len(missing)} of {len(needed)} privileges are asked for another time"
            unknown["how deep it may read"] = f"only one by one; {asked}"
        tables = {
            name: combine_rights(security, depths, readable)
            for name, security in live.securities.items()
        }
        return AccessRights(live.entities, live.securities, tables, unknown)


def _wait_or_note(asked: Future[T], what: str, unknown: dict[str, str]) -> T | None:
    """What was answered; why it was not is noted."""
    try:
        return wait_for(asked)
    except SyncError as error:
        unknown[what] = error.message
        return None


def ask_rights(
    session: Session, environment: Future[Environment], live: Future[Discovery], *, singles: int
) -> PendingRights:
    """Ask for the rights, as soon as it is known who asks and what for.

    ``singles`` is how many privileges may be asked for one by one.
    """
    pool = session.pool
    depths = pool.submit(find_depths, session, environment, live, singles)
    return PendingRights(live, depths, pool.submit(find_readable, session, environment, live))


def find_depths(
    session: Session, environment: Future[Environment], live: Future[Discovery], singles: int
) -> dict[str, Depths]:
    """How deep each privilege reaches that the tables need; on a worker.

    What it waits for was submitted before it, so that has a worker, or is done.
    """
    needed = _list_needed(live.result())
    if not needed:
        return {}
    if not any(one.secured for one in live.result().securities.values()):
        singles += 1  # in place of the request for columns
    privileges = [needed[name] for name in sorted(needed)]
    at = datetime.now(UTC).toordinal() * singles % len(privileges)  # of a day, those of its turn
    in_turn = [*privileges[at:], *privileges[:at]]
    return get_depths(session.client, _find_user(environment), in_turn, singles=singles)


def _list_needed(live: Discovery) -> dict[str, Privilege]:
    """The privileges that reading the tables takes; several tables may share one."""
    securities = live.securities.values()
    found = [Privilege(one.privilege, one.privilege_id) for one in securities if one.privilege]
    return {privilege.key: privilege for privilege in found}


def find_readable(
    session: Session, environment: Future[Environment], live: Future[Discovery]
) -> set[str]:
    """Ids of the secured attributes that the app may read; on a worker."""
    if not any(one.secured for one in live.result().securities.values()):
        return set()
    return get_readable(session.client, _find_user(environment))


def _find_user(environment: Future[Environment]) -> str:
    user_id = environment.result().user_id
    if user_id is None:
        raise EntityError("WhoAmI does not tell the user")
    return user_id
