"""What this app may see: how deep it may read each table, and which secured columns.

The service sends fewer records, and null for a secured column, without a word. So its rights are
asked for beside the records, and held against those that the copy was made with.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import Connection

from dataverse_sync.dataverse.definitions import Security
from dataverse_sync.dataverse.rights import (
    DEPTHS,
    GLOBAL,
    Depths,
    Privilege,
    get_depths,
    get_readable,
)
from dataverse_sync.dataverse.session import Session, wait_for
from dataverse_sync.errors import EntityError, SyncError
from dataverse_sync.model import Entity, Limit
from dataverse_sync.schema.discovery import Discovery
from dataverse_sync.store.database import transaction
from dataverse_sync.store.environment import Environment
from dataverse_sync.store.limits import Rights, parse_rights, record_limits
from dataverse_sync.store.sync_state import EntityState
from dataverse_sync.sync.setup import utc_now

log = logging.getLogger(__name__)

SINGLES_OF_A_RUN = 1  # and one more where no column is secured: a run takes three requests at most
SINGLES_OF_A_CHECK = 100
_REACH = (
    "its own records and those shared with it",
    "the records of its business unit",
    "the records of its business unit and of those below it",
)
_KINDS = {
    "elastic": (
        "an elastic table: ids are unique only within a partition, expired records are found by "
        "comparing keys, and a record just written may come with a later run"
    ),
    "virtual": (
        "a virtual table: its provider may refuse queries and cut it off at 1,000 or 5,000 records"
    ),
}

HIDES = ("depth", "secured")  # the kinds of limits that hide something

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Change:
    """How rights differ from those that a copy was made with, in words."""

    lost: tuple[str, ...] = ()
    gained: tuple[str, ...] = ()


def compare_rights(
    before: Rights | None, now: Rights, security: Security, entity: Entity
) -> Change:
    """What became less, and what more; what is not known is no difference.

    A user that was moved to another business unit has lost the records of the former one.
    """
    lost, gained = [], []
    if before and before.depths is not None and now.depths is not None:
        text = (
            f"{security.privilege} reaches {_describe_depths(now.depths)}, "
            f"was {_describe_depths(before.depths)}"
        )
        if not _covers(now.depths, before.depths):
            lost.append(text)
        elif not _covers(before.depths, now.depths):
            gained.append(text)
    if before and before.hidden is not None and now.hidden is not None:
        lost += [f"secured column {name}" for name in now.hidden if name not in before.hidden]
        shown = (name for name in before.hidden if name not in now.hidden and entity.has(name))
        gained += [f"column {name}" for name in shown]
    return Change(tuple(lost), tuple(gained))


def _covers(wide: Depths, narrow: Depths) -> bool:
    if GLOBAL in wide.values():
        return True
    return all(wide.get(unit, -1) >= depth for unit, depth in narrow.items())


def _describe_depths(depths: Depths) -> str:
    return f"depth {DEPTHS[max(depths.values())]}" if depths else "nothing"


@dataclass(frozen=True, slots=True)
class Sight:
    """What the service tells of this app's rights to the selected tables."""

    entities: Mapping[str, Entity]  # as they are in Dataverse now
    securities: Mapping[str, Security]
    rights: Mapping[str, Rights]  # by entity set; of those in the metadata
    problem: str = ""  # what cannot be asked for, and why

    def compare(self, name: str, before: str | None) -> Change:
        """How the rights to a table differ from those that its copy was made with."""
        if name not in self.rights:
            return Change()
        security, entity = self.securities[name], self.entities[name]
        return compare_rights(parse_rights(before), self.rights[name], security, entity)

    def find_limits(self, entities: Iterable[Entity]) -> list[Limit]:
        """What of these tables is not seen, or is odd."""
        found = []
        for entity in entities:
            if entity.kind != "standard":
                found.append(Limit(entity.name, None, entity.kind, _KINDS[entity.kind]))
            known = self.rights.get(entity.name, Rights())
            if known.depths is not None and GLOBAL not in known.depths.values():
                detail = _describe_reach(known.depths, self.securities[entity.name].privilege)
                found.append(Limit(entity.name, None, "depth", detail))
            detail = "a secured column that this app may not read: its values come as null"
            hidden = known.hidden or ()
            found += [Limit(entity.name, column, "secured", detail) for column in hidden]
        return found

    def describe_problem(self) -> str:
        return f"what this app may not see cannot be asked for: {self.problem}"

    def list_settled(self) -> set[tuple[str, str]]:
        """Of which tables which kinds of limits are known, found or not."""
        settled = {(name, kind) for name in self.entities for kind in _KINDS}
        for name, known in self.rights.items():
            settled |= {(name, "depth")} if known.depths is not None else set()
            settled |= {(name, "secured")} if known.hidden is not None else set()
        return settled


def _describe_reach(depths: Depths, privilege: str | None) -> str:
    if not depths:
        return f"this app does not have the privilege {privilege} to read it"
    depth = max(depths.values())
    return f"this app may read only {_REACH[depth]} ({privilege} at depth {DEPTHS[depth]})"


def describe_limit(limit: Limit) -> str:
    """A limit in a line that names its table already."""
    return f"{limit.column}: {limit.detail}" if limit.column else limit.detail


def describe_loss(name: str, change: Change) -> EntityError:
    """The error for a table that the app may read less of than what was copied."""
    return EntityError(
        f"{name}: the right to read it became less: {'; '.join(change.lost)}; nothing of the "
        "table was changed",
        "Give the app its right back. If it is to stay so, run once with --allow-deletes: the "
        "copy then loses what the app may not read any more.",
    )


def keep_limits(
    sight: Sight,
    entities: Iterable[Entity],
    before: Iterable[EntityState],
    connection: Connection,
) -> None:
    """Write down what is not seen of these tables, and say what is new of it."""
    known = [parse_rights(state.rights) for state in before]
    if sight.problem and not any(rights and rights.is_refused for rights in known):
        log.warning("%s", sight.describe_problem())
    found = sight.find_limits(entities)
    with transaction(connection):
        new = record_limits(connection, found, sight.list_settled(), utc_now())
    for limit in new:
        log.log(logging.WARNING if limit.kind in HIDES else logging.INFO, "%s", limit)


def describe_gain(name: str, change: Change) -> EntityError:
    """The error for a table that the app may read more of than what was copied."""
    return EntityError(
        f"{name}: the app may read more of it than was copied ({'; '.join(change.gained)})",
        "Run a sync, which reads it in full once.",
    )


# Asking


@dataclass(frozen=True, slots=True)
class Asking:
    """The rights are asked for on workers, while other answers are waited for."""

    live: Future[Discovery]
    depths: Future[dict[str, Depths]]
    readable: Future[set[str]]

    def wait(self) -> Sight:
        """What was told, and what could not be asked for."""
        try:
            live = wait_for(self.live)
        except SyncError as error:
            return Sight({}, {}, {}, f"metadata ({error.message})")
        if not live.securities:
            why = live.metadata_error
            return Sight(live.entities, {}, {}, f"metadata ({why.message})" if why else "")
        problems: list[str] = []
        depths = _wait_or_note(self.depths, "how deep it may read", problems)
        readable = _wait_or_note(self.readable, "secured columns", problems)
        found = {
            name: _combine(security, depths, readable, is_refused=bool(problems))
            for name, security in live.securities.items()
        }
        return Sight(live.entities, live.securities, found, ", ".join(problems))


def _wait_or_note(asked: Future[T], what: str, problems: list[str]) -> T | None:
    """What was answered; why it was not is noted."""
    try:
        return wait_for(asked)
    except SyncError as error:
        problems.append(f"{what} ({error.message})")
        return None


def _combine(
    security: Security,
    depths: Mapping[str, Depths] | None,
    readable: set[str] | None,
    *,
    is_refused: bool,
) -> Rights:
    mine = None if depths is None or security.privilege is None else depths[security.privilege]
    hidden = None
    if readable is not None or not security.secured:
        shown = readable or set()
        hidden = tuple(sorted(name for name, id in security.secured.items() if id not in shown))
    return Rights(None if mine is None else dict(mine), hidden, is_refused)


def ask(
    session: Session, environment: Future[Environment], live: Future[Discovery], *, singles: int
) -> Asking:
    """Ask for the rights, as soon as it is known who asks and what for.

    ``singles`` is how many privileges may be asked for one by one.
    """
    pool = session.pool
    depths = pool.submit(find_depths, session, environment, live, singles)
    return Asking(live, depths, pool.submit(find_readable, session, environment, live))


def find_depths(
    session: Session, environment: Future[Environment], live: Future[Discovery], singles: int
) -> dict[str, Depths]:
    """How deep each privilege reaches that the tables need; on a worker.

    What it waits for was submitted before it, so that has a worker, or is done.
    """
    securities = live.result().securities.values()
    needed = {one.privilege: one.privilege_id for one in securities if one.privilege}
    if not needed:
        return {}
    singles += not any(one.secured for one in securities)
    privileges = [Privilege(*pair) for pair in sorted(needed.items())]
    user_id = _find_user(environment.result())
    return get_depths(session.client, user_id, privileges, singles=singles)


def find_readable(
    session: Session, environment: Future[Environment], live: Future[Discovery]
) -> set[str]:
    """Ids of the secured attributes that the app may read; on a worker."""
    if not any(one.secured for one in live.result().securities.values()):
        return set()
    return get_readable(session.client, _find_user(environment.result()))


def _find_user(environment: Environment) -> str:
    if environment.user_id is None:
        raise EntityError("WhoAmI does not tell the user")
    return environment.user_id
