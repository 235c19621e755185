"""Decide how an entity is read in a run: in full, since its bookmark, or resumed; pure."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from dataverse_sync.dataverse import odata
from dataverse_sync.model import Entity
from dataverse_sync.store.sync_state import Checkpoint, EntityState
from dataverse_sync.sync.ways import BEST, Way

ReadKind = Literal["full", "since", "resume", "compare"]  # the last: keys and versions alone


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """How an entity's records are read in this run, and why."""

    kind: ReadKind
    why: str
    since: str | None = None
    checkpoint: Checkpoint | None = None

    @property
    def starts_over(self) -> bool:
        """Whether the records are read from the beginning, or are being read in ranges."""
        return self.kind == "full" or bool(self.checkpoint and self.checkpoint.ranges)


def plan_read(
    state: EntityState,
    entity: Entity,
    full: bool,
    api_url: str,
    way: Way = BEST,
    *,
    has_future: Callable[[], bool] = lambda: False,
) -> ReadPlan:
    """Decide: from a checkpoint, since the bookmark, by keys and versions, or in full.

    ``has_future`` says whether rows are dated in the future: a filter would bring them in every
    run.
    """
    checkpoint = state.checkpoint
    if (
        checkpoint is not None
        and all(odata.origin(link) == odata.origin(api_url) for link in checkpoint.links)
        and (checkpoint.full_asked or not full)
    ):
        ranges = f"in {len(checkpoint.ranges)} ranges" if checkpoint.ranges else ""
        why = f"resumed {ranges or f'at page {checkpoint.page}'}"
        return ReadPlan("resume", why, checkpoint.since, checkpoint)
    if full:
        return ReadPlan("full", "asked for by --full")
    if not entity.has("modifiedon"):
        return ReadPlan("full", "it has no modifiedon")
    if state.bookmark is None:
        return ReadPlan("full", "it has no bookmark yet")
    if not way.versions:
        return ReadPlan("full", "the service refuses the version column")
    if not way.since:
        return ReadPlan("compare", "keys and versions: the service refuses a filter by modifiedon")
    if has_future():
        return ReadPlan("compare", "keys and versions: rows are dated in the future")
    return ReadPlan("since", f"what changed since {state.bookmark}", state.bookmark)


SOONEST, LATEST = timedelta(days=3.5), timedelta(days=6)  # a daily run is a day later at most
SMALL_TABLE = 5000  # rows whose keys one request brings


def choose_compared(states: Mapping[str, EntityState], now: datetime) -> set[str]:
    """Which tracked tables have their keys and versions compared in this run.

    Change tracking does not tell everything. Each table has a period of its own, so that not all
    fall into one night. Of the small tables the one that was
    compared longest ago is compared as well: it takes one request.
    """
    due = {name for name, state in states.items() if is_due(name, state.compared_at, now)}
    small = [name for name in states if states[name].records_count <= SMALL_TABLE]
    oldest = min(small, key=lambda name: (_moment(states[name].compared_at), name), default=None)
    return due | ({oldest} if oldest is not None else set())


def is_due(name: str, compared_at: datetime | None, now: datetime) -> bool:
    """Whether a table is compared: unknown or future moments count as a week ago."""
    if compared_at is None or compared_at > now:
        return True
    share = zlib.crc32(name.encode()) / 2**32
    return now - compared_at >= SOONEST + (LATEST - SOONEST) * share


def _moment(compared_at: datetime | None) -> datetime:
    return compared_at or datetime.min.replace(tzinfo=UTC)
