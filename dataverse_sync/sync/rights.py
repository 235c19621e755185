"""Decide what the rights of this app mean for a copy: what it does not see, and what has changed.

The service sends fewer records, and null for a secured column, without a word. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from dataverse_sync.dataverse.definitions import Security
from dataverse_sync.dataverse.rights import DEPTHS, GLOBAL, Depths
from dataverse_sync.errors import EntityError
from dataverse_sync.model import Entity, Limit
from dataverse_sync.store.limits import Rights, parse_rights

HIDES = ("depth", "secured")  # the kinds of limits that hide something
_REACH = (
    "its own records and those shared with it",
    "the records of its business unit",
    "the records of its business unit and of those below it",
)
_SECURED = "a secured column that this app may not read: its values come as null"
_KINDS = {
    "elastic": (
        "an elastic table: ids are unique only within a partition, expired records are found by "
        "comparing keys, and a record just written may come with a later run"
    ),
    "virtual": (
        "a virtual table: its provider may refuse queries and cut it off at 1,000 or 5,000 records"
    ),
}


# Changes


@dataclass(frozen=True, slots=True)
class Change:
    """How rights differ from those that a copy was made with, in words."""

    lost: tuple[str, ...] = ()
    gained: tuple[str, ...] = ()


def compare_rights(
    before: Rights | None, now: Rights, security: Security, *, locked: Entity, live: Entity
) -> Change:
    """What became less, and what more; what is not known now is no difference.

    A user that was moved to another business unit has lost the records of the former one. A
    column that is not ``locked`` was never copied, and one that is not ``live`` is no gain. One
    that may be read now, and of which that could not be asked before, may have been null.
    """
    lost, gained = [], []
    if before and before.depths is not None and now.depths is not None:
        text = _describe_depths(security.privilege, before.depths, now.depths)
        if not _covers(now.depths, before.depths):
            lost.append(text)
        elif not _covers(before.depths, now.depths):
            gained.append(text)
    if before and now.hidden is not None:
        was_hidden = (security.secured or ()) if before.hidden is None else before.hidden
        new = () if before.hidden is None else set(now.hidden) - set(was_hidden)
        shown = [name for name in was_hidden if name not in now.hidden]
        lost += [f"secured column {name}" for name in sorted(new) if locked.has(name)]
        gained += [f"column {name}" for name in shown if live.has(name)]
    return Change(tuple(lost), tuple(gained))


def _covers(wide: Depths, narrow: Depths) -> bool:
    if GLOBAL in wide.values():
        return True
    return all(wide.get(unit, -1) >= depth for unit, depth in narrow.items())


def _describe_depths(privilege: str | None, before: Depths, now: Depths) -> str:
    was, is_ = (f"depth {DEPTHS[max(of.values())]}" if of else "nothing" for of in (before, now))
    if was == is_:
        return f"{privilege} reaches {is_}, but in other business units than before"
    return f"{privilege} reaches {is_}, was {was}"


def describe_loss(name: str, change: Change) -> EntityError:
    """The error for a table that the app may read less of than what was copied."""
    return EntityError(
        f"{name}: the right to read it became less: {'; '.join(change.lost)}; the copy is kept "
        "as it is",
        "Give the app its right back: a role for its privilege, a column security profile for a "
        "column. If it is to stay so, run once: sync --allow-deletes; the copy then loses what "
        "the app may not read any more.",
    )


def describe_gain(name: str, change: Change) -> EntityError:
    """The error for a table that the app may read more of than what was copied."""
    return EntityError(
        f"{name}: the app may read more of it than was copied ({'; '.join(change.gained)})",
        "Run a sync, which reads it in full once.",
    )


# What is told


@dataclass(frozen=True, slots=True)
class AccessRights:
    """What the service tells of this app's rights to some tables."""

    entities: Mapping[str, Entity] = field(default_factory=dict)  # as they are in Dataverse now
    securities: Mapping[str, Security] = field(default_factory=dict)
    tables: Mapping[str, Rights] = field(default_factory=dict)  # those in the metadata
    unknown: Mapping[str, str] = field(default_factory=dict)  # what is not told, and why

    def compare(self, locked: Entity, before: str | None) -> Change:
        """How the rights to a table differ from those that its copy was made with."""
        name = locked.name
        if name not in self.tables:
            return Change()
        kept, now = parse_rights(before), self.tables[name]
        security, live = self.securities[name], self.entities[name]
        return compare_rights(kept, now, security, locked=locked, live=live)

    def find_limits(self, entities: Iterable[Entity]) -> list[Limit]:
        """What of these tables is not seen, or is odd."""
        found = []
        for entity in entities:
            name, live = entity.name, self.entities.get(entity.name, entity)
            if live.kind != "standard":
                found.append(Limit(name, None, live.kind, _KINDS[live.kind]))
            known = self.tables.get(name, Rights())
            if known.depths is not None and GLOBAL not in known.depths.values():
                detail = _describe_reach(known.depths, self.securities[name].privilege)
                found.append(Limit(name, None, "depth", detail))
            found += [Limit(name, column, "secured", _SECURED) for column in known.hidden or ()]
        return found

    def list_settled(self) -> set[tuple[str, str]]:
        """Of which tables which kinds of limits are known, found or not."""
        settled = {(name, kind) for name in self.entities for kind in _KINDS}
        for name, known in self.tables.items():
            settled |= {(name, "depth")} if known.depths is not None else set()
            settled |= {(name, "secured")} if known.hidden is not None else set()
        return settled

    def describe_unknown(self) -> str:
        """What is not told, in one line."""
        told = ", ".join(f"{what} ({why})" for what, why in self.unknown.items())
        return f"what this app may not see cannot be asked for: {told}"


def combine_rights(
    security: Security, depths: Mapping[str, Depths] | None, readable: set[str] | None
) -> Rights:
    """The rights to a table: by how deep each privilege reaches, and ids of readable attributes."""
    if security.secured is None:
        return Rights()
    mine: Depths | None = {"": GLOBAL}  # it has no privilege of its own: its parents' decide
    if security.privilege is not None:
        mine = None if depths is None else depths.get(security.privilege.lower())
    hidden: Sequence[str] | None = None
    if readable is not None or not security.secured:
        shown = readable or set()
        hidden = sorted(name for name, id in security.secured.items() if id not in shown)
    return Rights(None if mine is None else dict(mine), None if hidden is None else tuple(hidden))


def _describe_reach(depths: Depths, privilege: str | None) -> str:
    if not depths:
        return f"this app does not have the privilege {privilege} to read it"
    depth = max(depths.values())
    return f"this app may read only {_REACH[depth]} ({privilege} at depth {DEPTHS[depth]})"


def describe_limit(limit: Limit) -> str:
    """A limit in a line that names its table already."""
    return f"{limit.column}: {limit.detail}" if limit.column else limit.detail
