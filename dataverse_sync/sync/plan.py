"""Decide how an entity is read in a run: in full, since its bookmark, or resumed; pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dataverse_sync.dataverse import odata
from dataverse_sync.store.sync_state import Checkpoint, EntityState


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """How an entity's records are read in this run, and why."""

    kind: Literal["full", "since", "resume"]
    why: str
    since: str | None = None
    checkpoint: Checkpoint | None = None

    @property
    def starts_over(self) -> bool:
        """Whether the records are read from the beginning, or are being read in ranges."""
        return self.kind == "full" or bool(self.checkpoint and self.checkpoint.ranges)


def plan_read(state: EntityState, has_modifiedon: bool, full: bool, api_url: str) -> ReadPlan:
    """Decide: from a checkpoint, since the bookmark, or in full."""
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
    if not has_modifiedon:
        return ReadPlan("full", "it has no modifiedon")
    if state.bookmark is None:
        return ReadPlan("full", "it has no bookmark yet")
    return ReadPlan("since", f"what changed since {state.bookmark}", state.bookmark)
