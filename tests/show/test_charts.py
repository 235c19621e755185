"""The charts of the report: what they show, and that it fits."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

import pytest
from run_tables import DAY, NIGHT

from dataverse_sync.model import Counts
from dataverse_sync.show.report.charts import (
    PLOT_PX,
    draw_changes,
    draw_durations,
    draw_growth,
    find_highest,
    find_step,
)
from dataverse_sync.store.history import LogEntry, Run


def runs_of(*seconds: float | None, counts: tuple[Counts, ...] = ()) -> list[Run]:
    """A run a day, each of one table."""
    runs = []
    for day, took in enumerate(seconds):
        at = NIGHT + day * DAY
        ended = None if took is None else at + timedelta(seconds=took)
        status = "in_progress" if took is None else "completed"
        of_day = counts[day] if counts else Counts()
        entry = LogEntry(f"r{day}", "accounts", at, ended, status, of_day, 1, None)
        runs.append(Run(f"r{day}", (entry,)))
    return runs


def added(*numbers: int) -> list[Run]:
    counts = tuple(Counts(added=number) for number in numbers)
    return runs_of(*[1.0] * len(numbers), counts=counts)


def test_bars_keep_their_proportions():
    counts = (Counts(added=100), Counts(added=50, updated=25, deleted=25), Counts())

    chart = draw_changes(runs_of(1, 1, 1, counts=counts))

    full, mixed, empty = chart.bars
    assert [block.kind for block in mixed.blocks] == ["added", "updated", "deleted"]
    heights = [block.height for block in mixed.blocks]
    assert heights == pytest.approx([full.blocks[0].height * part for part in (0.5, 0.25, 0.25)])
    assert (empty.blocks, empty.top) == ((), PLOT_PX)
    assert not chart.is_cut


def test_blocks_stacked_from_the_base():
    (bar,) = draw_changes(runs_of(1, counts=(Counts(added=2, updated=3, deleted=4),))).bars

    bottoms = [block.y + block.height for block in bar.blocks]
    assert bottoms == pytest.approx([PLOT_PX, *(block.y for block in bar.blocks[:-1])])
    assert bar.top == bar.blocks[-1].y > 0


def test_lines_stand_at_their_values():
    chart = draw_changes(added(100))

    assert [tick.text for tick in chart.ticks] == ["0", "50", "100"]
    top = chart.bars[0].top
    heights = [PLOT_PX * tick.at / 100 for tick in chart.ticks]
    assert heights == pytest.approx([PLOT_PX, (PLOT_PX + top) / 2, top])


def test_small_part_is_visible():
    assert draw_changes(added(100_000, 1)).bars[1].blocks[0].height == 1.0


def test_first_load_is_cut_off():
    chart = draw_durations(runs_of(3000, 40, 20, 30))

    assert [bar.is_cut for bar in chart.bars] == [True, False, False, False]
    assert chart.bars[0].value == "50 min"
    assert 0 < chart.bars[0].top < chart.bars[1].top < chart.bars[3].top < chart.bars[2].top
    assert [tick.text for tick in chart.ticks] == ["0 s", "10 s", "20 s", "30 s", "40 s"]
    assert chart.is_cut


def test_bars_stand_side_by_side():
    chart = draw_durations(runs_of(*range(1, 31)))

    edges = [(bar.x, bar.x + bar.width) for bar in chart.bars]
    assert all(left < right for left, right in edges)
    assert all(before[1] < after[0] for before, after in pairwise(edges))
    assert edges[0][0] >= 0
    assert edges[-1][1] <= 100
    assert chart.bars[0].middle == pytest.approx(100 / 60)


def test_single_run_is_a_narrow_bar():
    assert draw_durations(runs_of(5)).bars[0].width < 10


def test_no_chart_without_runs():
    assert draw_changes([]) is None
    assert draw_durations(runs_of(None)) is None


def test_run_in_progress_has_no_duration():
    chart = draw_durations(runs_of(5, None))

    assert [bar.run.run_id for bar in chart.bars] == ["r0"]


@pytest.mark.parametrize(
    ("values", "highest"),
    [
        ([], 0),
        ([0, 0], 0),
        ([7], 7),
        ([1000, 1], 1000),  # of two, neither is the odd one out
        ([3, 1000, 2, 0], 3),
        ([1000, 900, 3, 2], 3),
        ([10, 4, 3], 10),
        ([1e9, 1e6, 1e3, 1], 1e3),  # two at most
    ],
)
def test_scale_leaves_out_outliers(values, highest):
    assert find_highest(values) == highest


@pytest.mark.parametrize(
    ("highest", "steps", "step"),
    [
        (0, (), 1),
        (3, (), 1),
        (5, (), 2),
        (8.1, (), 5),
        (39, (), 10),
        (41, (), 20),
        (1_234_567, (), 500_000),
        (0.3, (0.1, 0.5), 0.1),
        (1, (0.1, 0.5), 0.5),
        (100, (0.1, 0.5), 50),
    ],
)
def test_lines_at_round_distances(highest, steps, step):
    assert find_step(highest, steps) == step


@pytest.mark.parametrize(
    ("count", "texts", "aligns"),
    [
        (1, ["11-23 02:00"], ["start"]),
        (3, ["11-25 02:00"], ["middle"]),
        (5, ["11-23 02:00", "11-27 02:00"], ["start", "middle"]),
        (30, ["11-23 02:00", "12-07 02:00", "12-22 02:00"], ["start", "middle", "end"]),
    ],
)
def test_dates_do_not_touch(count, texts, aligns):
    chart = draw_durations(runs_of(*[1.0] * count))

    assert [label.text for label in chart.dates] == texts
    assert [label.align for label in chart.dates] == aligns


def points_of(drawn: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (point.split(",") for point in drawn.split())]


def test_growth_fills_its_box():
    first, middle, last = points_of(draw_growth((100, 150, 200)))

    assert (first[0], middle[0], last[0]) == (0, 50, 100)
    assert 28 > first[1] > middle[1] > last[1] > 0
    assert middle[1] == pytest.approx((first[1] + last[1]) / 2)


@pytest.mark.parametrize("sizes", [(7,), (7, 7), (0,)])
def test_unchanged_size_is_a_flat_line(sizes):
    first, last = points_of(draw_growth(sizes))

    assert (first[0], last[0]) == (0, 100)
    assert first[1] == last[1] == 14
