"""How much each method depends on its learning rate."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from peftbench.analysis.blocks import Block, Value
from peftbench.analysis.learning_rates import TOLERANCE, ByArm, by_learning_rate, good_region
from peftbench.analysis.results import Results
from peftbench.figures.panels import Panels, beside, named, not_drawn, row_axis
from peftbench.figures.style import GREY, VALUES, axis_name, style, tidy
from peftbench.figures.ticks import log_axis
from peftbench.record import Status

MARKS: dict[Status, str] = {"diverged": "x", "pruned": "|"}  # at the edge
OTHER_ENDS = (
    "out-of-memory",
    "timed-out",
    "failed",
    "skipped",
)  # these say nothing about a learning rate


def lr_sensitivity(results: Results) -> Figure:
    """Metric and nll on `valid` against the learning rate, and the range of learning rates whose
    median nll is within TOLERANCE of the method's best, a panel for each block. Raises
    NothingToDraw if no method has two learning rates there."""
    drawn: dict[Block, ByArm] = {}
    single: list[str] = []
    for block in results.tuning:
        for arm, rates in by_learning_rate(block).items():
            if sum(rate.count("done") > 0 for rate in rates) > 1:
                drawn.setdefault(block, {})[arm] = rates
            else:
                single.append(named(block, arm))
    missing = "no method has runs on the valid split with two learning rates"
    rows = max(map(len, drawn.values()), default=0)
    panels = Panels(drawn, missing, [1.8, 1.8, 0.17 * rows + 0.6])
    for block, by_arm in drawn.items():
        panel = panels.axes[block]
        for axes, value in zip(panel, VALUES, strict=False):
            _lines(axes, by_arm, value)
            tidy(axes, y=axis_name(value, block.primary).replace(" (", "\n("))
        _regions(panel[2], by_arm)
        for axes in panel:
            log_axis(axes, [rate.lr for rates in by_arm.values() for rate in rates])
    all_rates = [rate for by_arm in drawn.values() for rates in by_arm.values() for rate in rates]
    others = [
        f"{run.record.status} ({block.question.task})"
        for block in results.tuning
        for run in block.runs
        if run.record.status in OTHER_ENDS
    ]
    notes = [
        "medians over runs; bars: smallest to largest; "
        "other settings than the learning rate may differ between runs",
        "learning rates in quarters of a decade where many were tried",
        "at the edge: x diverged, counted as worst"
        if any(rate.count("diverged") for rate in all_rates)
        else "",
        "| ended early, in no median" if any(rate.count("pruned") for rate in all_rates) else "",
        f"lowest panel, its width at the right: within {100 * TOLERANCE:g} % of the method's "
        "lowest median nll",
        "arrows: no further learning rate was tried",
        not_drawn(single, " for want of a second learning rate"),
        not_drawn(others),
    ]
    return panels.annotate(notes)


def _lines(axes: Axes, by_arm: ByArm, value: Value) -> None:
    heights: list[float] = []
    for place, (arm, rates) in enumerate(by_arm.items()):
        colour, marker = style(arm.method)
        shown = [
            (rate.lr, middle.median, middle.low, middle.high)
            for rate in rates
            if (middle := rate.middle(value)).median is not None and math.isfinite(middle.median)
        ]
        x, middles, lows, highs = np.array(shown, float).reshape(-1, 4).T
        bars = np.maximum([middles - lows, highs - middles], 0)
        look = {"color": colour, "marker": marker, "markersize": 4, "linewidth": 1.1}
        axes.errorbar(x, middles, bars, elinewidth=0.7, **look)
        heights += middles.tolist()
        edge = 1 - 0.03 * place if value == "nll" else 0.03 * place  # where it is worst
        look = {"color": colour, "markersize": 4, "clip_on": False}
        look["transform"] = axes.get_xaxis_transform()
        for status, mark in MARKS.items():
            ended = [rate.lr for rate in rates if rate.count(status)]
            if ended:  # an empty line would stand in the figure's corner when the layout is made
                axes.plot(ended, [edge] * len(ended), mark, **look)
    if value == "nll" and heights and min(heights) > 0 and max(heights) > 4 * min(heights):
        axes.set_yscale("log")
    axes.margins(y=0.12)
    axes.tick_params(labelbottom=False)


def _regions(axes: Axes, by_arm: ByArm) -> None:
    row_axis(axes, by_arm)
    for place, (arm, rates) in enumerate(by_arm.items()):
        nll = [rate.middle("nll").median for rate in rates]
        region = good_region([rate.lr for rate in rates], nll)
        if region is None:
            continue
        colour, marker = style(arm.method)
        ends, row = [region.low, region.high], [place, place]
        axes.plot(ends, row, color=colour, linewidth=2.5, solid_capstyle="butt")
        axes.plot(region.best, place, marker, color=colour, markersize=4)
        opens = (region.open_low, region.open_high)
        for end, is_open, arrow in zip(ends, opens, "<>", strict=True):
            if is_open:
                axes.plot(end, place, arrow, color=colour, markersize=3.5, clip_on=False)
        beside(axes, place, f"{'at least ' if any(opens) else ''}{region.decades:.1f}")
    beside(axes, -0.8, "decades", color=GREY)
    tidy(axes, "learning rate")
