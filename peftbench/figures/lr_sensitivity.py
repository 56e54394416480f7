"""How much each method depends on its learning rate."""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from peftbench.analysis.frame import BLOCK, distinct
from peftbench.analysis.learning_rates import VALUES, by_learning_rate, good_region
from peftbench.figures.sheet import annotate, blocks, not_drawn, row_axis, sheet
from peftbench.figures.style import GREY, SMALL, NothingToDraw, axis_name, style, tidy

OTHER_ENDS = {"out-of-memory", "timed-out", "failed"}  # these say nothing about a learning rate
METHOD = [*BLOCK, "method"]
EDGE_MARKS = {"diverged": "x", "pruned": "|"}


def lr_sensitivity(runs: pd.DataFrame, tolerance: float = 0.02) -> Figure:
    """Metric and nll on `valid` against the learning rate, and the range of learning rates whose
    median nll is within `tolerance` of the method's best, a panel for each block of runs that may
    be compared. Raises NothingToDraw if no method has two learning rates there."""
    found = by_learning_rate(runs)
    several = {
        key for key, each in found.query("n > 0").groupby(METHOD, sort=False) if len(each) > 1
    }
    usable = [key in several for key in found[METHOD].itertuples(index=False, name=None)]
    drawn, left = found.loc[usable], found.loc[np.logical_not(usable)].drop_duplicates(METHOD)
    if drawn.empty:
        raise NothingToDraw(
            "there is nothing to draw: no method has runs on the valid split with two learning rates"
        )
    parts = blocks(drawn)
    rows = max(len(set(members["method"])) for members in parts)
    figure, panels = sheet(parts, [1.8, 1.8, 0.17 * rows + 0.6])
    for panel, members in zip(panels, parts, strict=True):
        for axes, y in zip(panel, VALUES, strict=False):
            _lines(axes, members, y)
        _regions(panel[2], members, tolerance)
        lrs = members["lr"].to_numpy(float)
        room = (lrs.max() / lrs.min()) ** 0.06
        for axes in panel:
            axes.set_xscale("log")
            axes.set_xlim(lrs.min() / room, lrs.max() * room)
    others = distinct(runs).query("split == 'valid' and status in @OTHER_ENDS")
    notes = [
        "medians over runs; bars: smallest to largest; other settings than the learning rate may differ between runs",
        "learning rates in quarters of a decade where many were tried",
        "at the edge: x diverged, counted as worst" if sum(drawn["diverged"]) else "",
        "| ended early, in no median" if sum(drawn["pruned"]) else "",
        f"lowest panel, its width at the right: within {100 * tolerance:g} % of the method's lowest median nll",
        "arrows: no further learning rate was tried",
        not_drawn(list(left["method"]), list(left["task"]), " for want of a second learning rate"),
        not_drawn(list(others["status"]), list(others["task"])),
    ]
    annotate(figure, parts, notes)
    return figure


def _lines(axes: Axes, members: pd.DataFrame, y: str) -> None:
    for place, (method, each) in enumerate(members.groupby("method", sort=False)):
        colour, marker = style(str(method))
        shown = each.loc[np.isfinite(each[y])]
        middle = shown[y].to_numpy(float)
        bars = [
            np.maximum(middle - shown[f"{y}.low"], 0),
            np.maximum(shown[f"{y}.high"] - middle, 0),
        ]
        axes.errorbar(
            shown["lr"],
            middle,
            bars,
            color=colour,
            marker=marker,
            markersize=4,
            linewidth=1.1,
            elinewidth=0.7,
        )
        for status, mark in EDGE_MARKS.items():
            ended = each.loc[each[status] > 0, "lr"]
            if (
                ended.empty
            ):  # an empty line would stand in the figure's corner when the layout is made
                continue
            height = 1 - 0.03 * place if y == "nll" else 0.03 * place  # where it is worst
            axes.plot(
                ended,
                [height] * len(ended),
                mark,
                color=colour,
                markersize=4,
                transform=axes.get_xaxis_transform(),
                clip_on=False,
            )
    tidy(axes, y=axis_name(y, str(members["primary"].iloc[0])).replace(" (", "\n("))
    values = members[y].to_numpy(float)[np.isfinite(members[y].to_numpy(float))]
    if y == "nll" and values.size and values.min() > 0 and values.max() > 4 * values.min():
        axes.set_yscale("log")
    axes.margins(y=0.12)
    axes.tick_params(labelbottom=False)


def _regions(axes: Axes, members: pd.DataFrame, tolerance: float) -> None:
    methods = list(dict.fromkeys(members["method"]))
    for place, method in zip(row_axis(axes, methods, methods), methods, strict=True):
        each = members.loc[members["method"] == method]
        region = good_region(each["lr"].tolist(), each["nll"].tolist(), tolerance)
        if region is None:
            continue
        colour, marker = style(method)
        axes.plot(
            [region.low, region.high],
            [place, place],
            color=colour,
            linewidth=2.5,
            solid_capstyle="butt",
        )
        best = each["lr"].iloc[int(each["nll"].fillna(math.inf).argmin())]
        axes.plot(best, place, marker, color=colour, markersize=4)
        for end, open_, arrow in (
            (region.low, region.open_low, "<"),
            (region.high, region.open_high, ">"),
        ):
            if open_:
                axes.plot(end, place, arrow, color=colour, markersize=3.5, clip_on=False)
        wide = f"{'at least ' if region.open_low or region.open_high else ''}{region.decades:.1f}"
        axes.annotate(
            wide, (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=SMALL - 1
        )
    axes.annotate(
        "decades",
        (1.01, -0.8),
        xycoords=("axes fraction", "data"),
        va="center",
        fontsize=SMALL - 1,
        color=GREY,
    )
    tidy(axes, "learning rate")
