"""Measure the charts of the report: x in percent of the plot's width, which varies; y in pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from dataverse_sync.show.text import format_duration
from dataverse_sync.store.history import Run

PLOT_PX = 150.0  # the height of the plot
_ROOM_PX = 26.0  # above the highest bar, for its mark and for bars that are cut off
_CUT_ROOM_PX = 4.0  # above a bar that is cut off
_FEWEST_SLOTS = 10  # so that one run is a bar and not a wall
_OUTLIER = 5.0  # a bar so many times the next one is cut off, or the others would vanish
_STEPS_S = (
    *(0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30),
    *(60, 120, 300, 600, 900, 1800),
    *(3600, 7200, 14400, 28800, 86400),
)


@dataclass(frozen=True, slots=True)
class Block:
    kind: str
    y: float
    height: float


@dataclass(frozen=True, slots=True)
class Bar:
    run: Run
    x: float
    width: float
    blocks: tuple[Block, ...]  # from the base up
    is_cut: bool  # higher than the chart; its value is written beside it
    value: str

    @property
    def middle(self) -> float:
        return self.x + self.width / 2

    @property
    def top(self) -> float:
        return self.blocks[-1].y if self.blocks else PLOT_PX


@dataclass(frozen=True, slots=True)
class Label:
    """A word on an axis, in percent along it."""

    at: float
    text: str
    align: Literal["start", "middle", "end"] = "middle"


@dataclass(frozen=True, slots=True)
class Chart:
    bars: tuple[Bar, ...]  # one a run
    ticks: tuple[Label, ...]
    dates: tuple[Label, ...]

    @property
    def is_cut(self) -> bool:
        return any(bar.is_cut for bar in self.bars)


def draw_durations(runs: Sequence[Run]) -> Chart | None:
    """Draw how long each run took that has ended; None if there is none."""
    amounts = [(run, {"duration": run.duration_s}) for run in runs if run.duration_s is not None]
    return _draw(amounts, format_duration, _STEPS_S)


def draw_changes(runs: Sequence[Run]) -> Chart | None:
    """Draw the rows that each run changed, by kind; None if there is no run."""
    kinds = ("added", "updated", "deleted")
    amounts = [(run, {kind: getattr(run.totals, kind) for kind in kinds}) for run in runs]
    return _draw(amounts, "{:,.0f}".format, ())


def _draw(
    amounts: Sequence[tuple[Run, Mapping[str, float]]],
    word: Callable[[float], str],
    steps: Sequence[float],
) -> Chart | None:
    if not amounts:
        return None
    highest = find_highest([sum(kinds.values()) for _, kinds in amounts])
    step = find_step(highest, steps)
    limit = max(highest, step)
    slots = max(len(amounts), _FEWEST_SLOTS)
    room = PLOT_PX - _ROOM_PX
    bars = []
    for at, (run, kinds) in enumerate(amounts):
        total = sum(kinds.values())
        scale = (PLOT_PX - _CUT_ROOM_PX) / total if total > limit else room / limit
        x, width = 100 * (at + 0.14) / slots, 72 / slots
        bars.append(Bar(run, x, width, _stack(kinds, scale), total > limit, word(total)))
    ticks = [
        Label(100 * (1 - room * at * step / limit / PLOT_PX), word(at * step))
        for at in range(math.floor(limit / step + 1e-9) + 1)
    ]
    return Chart(tuple(bars), tuple(ticks), _label_dates([run for run, _ in amounts], slots))


def _stack(kinds: Mapping[str, float], scale: float) -> tuple[Block, ...]:
    bottom, blocks = PLOT_PX, []
    for kind, amount in kinds.items():
        if amount > 0:
            height = max(1.0, amount * scale)
            bottom -= height
            blocks.append(Block(kind, bottom, height))
    return tuple(blocks)


def find_highest(values: Sequence[float]) -> float:
    """Find the value that a chart must be high enough for.

    A first load may be a thousand times what comes after it. Up to two such values are
    left out of the scale, so that the others can be told apart.
    """
    ranked = sorted((value for value in values if value > 0), reverse=True)
    for at in range(min(2, len(ranked) - 2)):
        if ranked[at] > _OUTLIER * ranked[at + 1]:
            ranked[: at + 1] = [ranked[at + 1]] * (at + 1)
    return ranked[0] if ranked else 0.0


def find_step(highest: float, steps: Sequence[float]) -> float:
    """Find the distance of a chart's lines: no more than four of them up to the highest value.

    Beyond the steps to choose from, it is 1, 2 or 5 times a power of ten, of at least 1.
    """
    power = max(0, math.floor(math.log10(highest / 4))) if highest > 4 else 0
    round_steps = (float(times * 10**power) for times in (1, 2, 5, 10))
    return next(step for step in (*steps, *round_steps) if highest <= 4 * step)


def _label_dates(runs: Sequence[Run], slots: int) -> tuple[Label, ...]:
    last = len(runs) - 1
    shown = {0, last // 2, last} if last >= 8 else {0, last} if last >= 4 else {last}
    return tuple(
        _place_label(100 * (at + 0.5) / slots, runs[at].started_at.strftime("%m-%d %H:%M"))
        for at in sorted(shown)
    )


def _place_label(percent: float, text: str) -> Label:
    if percent < 15:  # or it would leave the axis
        return Label(0.0, text, "start")
    return Label(100.0, text, "end") if percent > 85 else Label(percent, text)


def draw_growth(sizes: Sequence[int]) -> str:
    """Draw a table's sizes as points in a box of 100 by 28, flat if nothing changed."""
    low, high = min(sizes), max(sizes)
    ys = [14.0 if low == high else 25 - 22 * (size - low) / (high - low) for size in sizes]
    last = max(1, len(ys) - 1)
    points = enumerate(ys if len(ys) > 1 else ys * 2)
    return " ".join(f"{format_px(100 * at / last)},{format_px(y)}" for at, y in points)


def format_px(number: float) -> str:
    return f"{number:.2f}".rstrip("0").rstrip(".")
