"""The plan of a read: in full, since a bookmark, or from a checkpoint."""

from __future__ import annotations

from dataclasses import replace

import pytest
from conftest import OLD

from dataverse_sync.model import Range
from dataverse_sync.store.sync_state import Checkpoint, EntityState
from dataverse_sync.sync.plan import plan_read

API = "https://org.crm.dynamics.com/api/data/v9.2/"
CHECKPOINT = Checkpoint(f"{API}accounts?$skiptoken=x", 4, OLD, "2026-11-23T02:00:00+00:00")
BOOKMARKED = EntityState("completed", bookmark=OLD)
BROKEN_OFF = EntityState("failed", bookmark=OLD, checkpoint=CHECKPOINT)


@pytest.mark.parametrize(
    ("state", "has_modifiedon", "full", "kind", "since"),
    [
        (EntityState(), True, False, "full", None),
        (BOOKMARKED, True, False, "since", OLD),
        (BOOKMARKED, True, True, "full", None),
        (BOOKMARKED, False, False, "full", None),
        (BROKEN_OFF, True, False, "resume", OLD),
        (BROKEN_OFF, True, True, "full", None),
        (
            replace(BROKEN_OFF, checkpoint=replace(CHECKPOINT, full_asked=True, since=None)),
            True,
            True,
            "resume",
            None,
        ),
    ],
)
def test_plan_follows_state_and_options(state, has_modifiedon, full, kind, since):
    plan = plan_read(state, has_modifiedon, full, API)

    assert (plan.kind, plan.since) == (kind, since)
    assert plan.why
    assert (plan.checkpoint is not None) == (kind == "resume")


def test_checkpoint_of_other_origin_ignored():
    elsewhere = replace(CHECKPOINT, next_link="https://evil.example/api/data/v9.2/accounts?x")

    plan = plan_read(replace(BROKEN_OFF, checkpoint=elsewhere), True, False, API)

    assert (plan.kind, plan.since) == ("since", OLD)


@pytest.mark.parametrize(
    ("checkpoint", "starts_over"),
    [(None, True), (CHECKPOINT, False), (Checkpoint(ranges=(Range(next_link=f"{API}x"),)), True)],
)
def test_read_in_ranges_counts_as_started_over(checkpoint, starts_over):
    state = EntityState("failed", checkpoint=checkpoint)

    plan = plan_read(state, True, False, API)

    assert plan.starts_over == starts_over
