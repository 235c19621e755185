"""The plan of a read: in full, since a bookmark, or from a checkpoint."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from conftest import OLD

from dataverse_sync.model import Column, Entity, Range
from dataverse_sync.store.sync_state import Checkpoint, EntityState
from dataverse_sync.sync.plan import choose_compared, is_due, plan_read
from dataverse_sync.sync.ways import Way

MONDAY = datetime(2026, 11, 23, 2, tzinfo=UTC)
API = "https://org.crm.dynamics.com/api/data/v9.2/"
CHECKPOINT = Checkpoint(f"{API}accounts?$skiptoken=x", 4, OLD, "2026-11-23T02:00:00+00:00")
BOOKMARKED = EntityState("completed", bookmark=OLD)
BROKEN_OFF = EntityState("failed", bookmark=OLD, checkpoint=CHECKPOINT)


def entity(has_modifiedon: bool = True) -> Entity:
    columns = [Column("accountid", "TEXT"), Column("modifiedon", "TEXT")]
    return Entity("accounts", "accountid", tuple(columns[: 1 + has_modifiedon]), "metadata")


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
    plan = plan_read(state, entity(has_modifiedon), full, API)

    assert (plan.kind, plan.since) == (kind, since)
    assert plan.why
    assert (plan.checkpoint is not None) == (kind == "resume")


def test_checkpoint_of_other_origin_ignored():
    elsewhere = replace(CHECKPOINT, next_link="https://evil.example/api/data/v9.2/accounts?x")

    plan = plan_read(replace(BROKEN_OFF, checkpoint=elsewhere), entity(), False, API)

    assert (plan.kind, plan.since) == ("since", OLD)


@pytest.mark.parametrize(
    ("checkpoint", "starts_over"),
    [(None, True), (CHECKPOINT, False), (Checkpoint(ranges=(Range(next_link=f"{API}x"),)), True)],
)
def test_read_in_ranges_counts_as_started_over(checkpoint, starts_over):
    state = EntityState("failed", checkpoint=checkpoint)

    plan = plan_read(state, entity(), False, API)

    assert plan.starts_over == starts_over


@pytest.mark.parametrize(
    ("way", "has_future", "full", "kind"),
    [
        (Way(since=False), False, False, "compare"),
        (Way(), True, False, "compare"),
        (Way(versions=False), False, False, "full"),
        (Way(since=False, versions=False), True, False, "full"),
        (Way(since=False), True, True, "full"),
        (Way(ids="none", order=2, page_size=10), False, False, "since"),
    ],
)
def test_plan_follows_what_is_refused(way, has_future, full, kind):
    plan = plan_read(BOOKMARKED, entity(), full, API, way, has_future=lambda: has_future)

    assert plan.kind == kind
    assert plan.why


def test_every_table_compared_within_a_week_on_many_nights():
    names = [f"vin_things{number}" for number in range(100)]
    nights: dict[int, int] = {}
    for name in names:
        night = next(n for n in range(1, 9) if is_due(name, MONDAY, MONDAY + timedelta(days=n)))
        nights[night] = nights.get(night, 0) + 1

    assert max(nights) <= 6
    assert min(nights) >= 4
    assert max(nights.values()) < len(names) / 2


@pytest.mark.parametrize("compared_at", [None, MONDAY + timedelta(days=2)])
def test_unknown_moment_of_comparison_is_due(compared_at):
    assert is_due("accounts", compared_at, MONDAY)


def test_small_table_compared_longest_ago_is_chosen():
    states = {
        name: EntityState(records_count=rows, compared_at=MONDAY - timedelta(hours=hours))
        for name, rows, hours in [("a", 5000, 2), ("b", 5000, 3), ("c", 5001, 4), ("d", 1, 1)]
    }

    assert choose_compared(states, MONDAY) == {"b"}
    assert choose_compared({}, MONDAY) == set()
    assert choose_compared(states, MONDAY + timedelta(days=7)) == {*states}
