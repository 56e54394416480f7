"""How much each method depends on its learning rate."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from peftbench.analysis.blocks import Block, Value
from peftbench.analysis.estimates import Results
from peftbench.analysis.learning_rates import LearningRate, by_learning_rate, good_region
from peftbench.figures.panels import NothingToDraw, Panels, beside, not_drawn, row_axis
from peftbench.figures.style import GREY, VALUES, axis_name, style, tidy

OTHER_ENDS = ("out-of-memory", "timed-out", "failed")  # these say nothing about a learning rate
Methods = dict[str, tuple[LearningRate, ...]]


def lr_sensitivity(results: Results, tolerance: float = 0.02) -> Figure:
    """Metric and nll on `valid` against the learning rate, and the range of learning rates whose
    median nll is within `tolerance` of the method's best, a panel for each block. Raises
    NothingToDraw if no method has two learning rates there."""
    drawn: dict[Block, Methods] = {}
    single: list[str] = []
    for block in results.tuning:
        methods = by_learning_rate(block)
        usable = {method: rates for method, rates in methods.items() if _several(rates)}
        single += [f"{name} ({block.question.task})" for name in methods if name not in usable]
        if usable:
            drawn[block] = usable
    if not drawn:
        raise NothingToDraw("no method has runs on the valid split with two learning rates")
    rows = max(map(len, drawn.values()))
    panels = Panels.of(drawn, [1.8, 1.8, 0.17 * rows + 0.6])
    for panel, (block, methods) in zip(panels.axes, drawn.items(), strict=True):
        for axes, value in zip(panel, VALUES, strict=False):
            _lines(axes, methods, value)
            tidy(axes, y=axis_name(value, block.primary).replace(" (", "\n("))
        _regions(panel[2], methods, tolerance)
        lrs = [rate.lr for rates in methods.values() for rate in rates]
        room = (max(lrs) / min(lrs)) ** 0.06
        for axes in panel:
            axes.set_xscale("log")
            axes.set_xlim(min(lrs) / room, max(lrs) * room)
    all_rates = [rate for methods in drawn.values() for rates in methods.values() for rate in rates]
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
        if any(rate.diverged for rate in all_rates)
        else "",
        "| ended early, in no median" if any(rate.pruned for rate in all_rates) else "",
        f"lowest panel, its width at the right: within {100 * tolerance:g} % of the method's "
        "lowest median nll",
        "arrows: no further learning rate was tried",
        not_drawn(single, " for want of a second learning rate"),
        not_drawn(others),
    ]
    return panels.annotate(notes)


def _several(rates: Sequence[LearningRate]) -> bool:
    return sum(rate.done > 0 for rate in rates) > 1


def _lines(axes: Axes, methods: Methods, value: Value) -> None:
    heights: list[float] = []
    for place, (method, rates) in enumerate(methods.items()):
        colour, marker = style(method)
        shown = [
            (rate.lr, middle.median, middle.low, middle.high)
            for rate in rates
            if (middle := rate.values[value]).median is not None and math.isfinite(middle.median)
        ]
        x, middles, lows, highs = np.array(shown, float).reshape(-1, 4).T
        bars = np.maximum([middles - lows, highs - middles], 0)
        look = {"color": colour, "marker": marker, "markersize": 4, "linewidth": 1.1}
        axes.errorbar(x, middles, bars, elinewidth=0.7, **look)
        heights += middles.tolist()
        edge = 1 - 0.03 * place if value == "nll" else 0.03 * place  # where it is worst
        diverged = [rate.lr for rate in rates if rate.diverged]
        pruned = [rate.lr for rate in rates if rate.pruned]
        look = {"color": colour, "markersize": 4, "clip_on": False}
        look["transform"] = axes.get_xaxis_transform()
        for ended, mark in ((diverged, "x"), (pruned, "|")):
            if ended:  # an empty line would stand in the figure's corner when the layout is made
                axes.plot(ended, [edge] * len(ended), mark, **look)
    if value == "nll" and heights and min(heights) > 0 and max(heights) > 4 * min(heights):
        axes.set_yscale("log")
    axes.margins(y=0.12)
    axes.tick_params(labelbottom=False)


def _regions(axes: Axes, methods: Methods, tolerance: float) -> None:
    places = row_axis(axes, list(methods), list(methods))
    for place, (method, rates) in zip(places, methods.items(), strict=True):
        nll = [rate.values["nll"].median for rate in rates]
        region = good_region([rate.lr for rate in rates], nll, tolerance)
        if region is None:
            continue
        colour, marker = style(method)
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
