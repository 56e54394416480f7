"""Cost against quality: what can be had for at most so many parameters or bytes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from peftbench.analysis.blocks import Arm, Block, Value, grouped
from peftbench.analysis.estimates import BETTER
from peftbench.analysis.measures import mean
from peftbench.analysis.results import Results
from peftbench.figures.labels import place_labels
from peftbench.figures.panels import Panels, left_out
from peftbench.figures.style import SMALL, axis_name, ink, style, tidy
from peftbench.figures.ticks import only_ticks, round_ticks
from peftbench.wording import count, size

CostAxis = Literal["trained_params", "peak_bytes"]
NAMES: dict[CostAxis, str] = {
    "trained_params": "trained parameters",
    "peak_bytes": "peak memory of a training step",
}
COST_AXES = tuple(NAMES)
# in a panel with more arms only the best of each method and those on the front are named
MOST_LABELS = 12


@dataclass(frozen=True)
class ParetoPoint:
    """An arm's mean cost and mean value over seeds; goodness: the value, negative for nll; spread:
    its standard deviation, None for one seed."""

    arm: Arm
    cost: float
    value: float
    goodness: float
    spread: float | None


def pareto_front(x: Sequence[float], y: Sequence[float]) -> list[int]:
    """Which points no other point beats, where a small x and a large y are good: their indices by
    x. A point beats another if it is as good in both and better in one, so equal points stand or
    fall together; a point with a NaN is never among them."""
    order = sorted(
        (i for i in range(len(x)) if not (math.isnan(x[i]) or math.isnan(y[i]))),
        key=lambda i: (x[i], -y[i]),
    )
    front: list[int] = []
    for i in order:
        if not front or y[i] > y[front[-1]] or (x[i], y[i]) == (x[front[-1]], y[front[-1]]):
            front.append(i)
    return front


def pareto(results: Results, cost: CostAxis, value: Value = "metric") -> Figure:
    """What each method costs against what it reaches, a panel for each block of costs; seeds of
    other devices count for what it reaches.

    The step line is the best that can be had for at most so much; bars are standard deviations over
    seeds; the frozen model stands at 0, on the linear beginning of the axis. Raises NothingToDraw
    if no run has both values.
    """
    of_blocks = {block: _points(results, block, cost, value) for block in results.costs}
    drawn = {block: points for block, points in of_blocks.items() if points}
    missing = f"no run that is done has both {cost} and {value}; trials of searches do not count"
    panels = Panels(drawn, missing)
    for block, (axes,) in panels.axes.items():
        _draw(axes, drawn[block], cost)
        tidy(axes, NAMES[cost], axis_name(value, block.primary))
    every = [point for points in drawn.values() for point in points]
    notes = [
        "line: the best that costs at most so much",
        "bars: standard deviation over seeds"
        if any(point.spread is not None for point in every)
        else "",
        "axis linear up to the mark after 0" if any(point.cost == 0 for point in every) else "",
        *left_out(results, results.costs, {point.arm for point in every}),
    ]
    panels.annotate(notes)
    panels.figure.draw_without_rendering()  # from here on every position is known
    for block, (axes,) in panels.axes.items():
        _name(axes, drawn[block])
    return panels.figure


def _points(results: Results, block: Block, cost: CostAxis, value: Value) -> list[ParetoPoint]:
    """The arms of a cost block that have both; what they reach is that of the same arm in the
    quality block of the same question."""
    quality = next(other for other in results.final if other.question == block.question)
    estimates = {arm.label: estimate for arm, estimate in results.estimates(quality, value).items()}
    points: list[ParetoPoint] = []
    for arm in block.arms:
        spent, reached = mean(arm, cost), estimates.get(arm.label)
        if spent is not None and reached is not None and reached.mean is not None:
            points.append(
                ParetoPoint(arm, spent, reached.mean, BETTER[value] * reached.mean, reached.std)
            )
    return points


def _front(points: Sequence[ParetoPoint]) -> list[int]:
    return pareto_front([point.cost for point in points], [point.goodness for point in points])


def _draw(axes: Axes, points: Sequence[ParetoPoint], cost: CostAxis) -> None:
    """The axes of a panel, its points and its front."""
    for point in points:
        colour, marker = style(point.arm.method)
        x, y = point.cost, point.value
        axes.errorbar(x, y, point.spread or None, color=colour, elinewidth=0.8, zorder=2)
        look = {"markersize": 5, "markeredgecolor": "white", "markeredgewidth": 0.5}
        axes.plot(x, y, marker, color=colour, zorder=3, **look)
    _scale(axes, np.array([point.cost for point in points]), cost)
    front = [points[i] for i in _front(points)]
    right = axes.get_xlim()[1]
    xs = [*(point.cost for point in front), right]
    ys = [*(point.value for point in front), front[-1].value]
    axes.step(xs, ys, where="post", color="#999999", linewidth=1, zorder=1)
    axes.set_xlim(right=right)
    axes.margins(y=0.12)


def _scale(axes: Axes, values: np.ndarray, cost: CostAxis) -> None:
    """A logarithmic axis for positive values; if some are 0, it begins with a short linear part
    that holds them."""
    positive = values[values > 0]
    low, high = (positive.min(), positive.max()) if positive.size else (1.0, 1.0)
    base, text = (2, size) if cost == "peak_bytes" else (10, count)
    room = (high / low) ** 0.08 * 1.1
    ticks = round_ticks(low / room, high * room, base)
    if positive.size < values.size:
        linear = float(base) ** math.floor(math.log(low / 1.0001, base))
        axes.set_xscale("symlog", base=base, linthresh=linear, linscale=0.6)
        axes.set_xlim(-0.6 * linear, high * room)
        ticks = [0.0, linear, *(tick for tick in ticks if tick > linear)]
    else:
        axes.set_xscale("log", base=base)
        axes.set_xlim(low / room, high * room)
    only_ticks(axes, ticks, text)


def _name(axes: Axes, points: Sequence[ParetoPoint]) -> None:
    """Label the points; in a panel with many arms only the best of each method and those on the
    front."""
    front, shown = _front(points), list(range(len(points)))
    if len(points) > MOST_LABELS:
        by_method = grouped(shown, lambda i: points[i].arm.method)
        best = [max(same, key=lambda i: points[i].goodness) for same in by_method.values()]
        shown = sorted({*front, *best})
    labels = {}
    for i in shown:
        arm = points[i].arm
        look = {"fontsize": SMALL, "color": ink(arm.method), "in_layout": False}
        labels[i] = axes.text(0, 0, arm.label, **look)
    places = np.array([(point.cost, point.value) for point in points])
    spreads = np.array([point.spread or 0 for point in points])
    place_labels(axes, labels, places, spreads, front)
