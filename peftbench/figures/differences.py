"""How much better or worse than a reference each arm is, task by task, with 95 % intervals."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from peftbench.figures._sheet import annotate, blocks, legend, not_drawn, row_axis, sheet
from peftbench.figures._style import GREY, NothingToDraw, style, tidy
from peftbench.figures.pareto import Y
from peftbench.frame import ARM, BLOCK

LEVEL = 0.05
PREFIX = {"metric": "", "nll": "nll."}


def differences(found: pd.DataFrame, runs: pd.DataFrame, y: Y = "metric", note: str = "") -> Figure:
    """The differences of `stats.differences`, positive is better, a panel for each block of runs that may be compared; filled: more than
    chance after Holm's correction over the block. runs: those that `found` was made from;
    note: what is to be said of them.

    Raises NothingToDraw if there is no difference.
    """
    prefix = PREFIX[y]
    primaries = runs.drop_duplicates(ARM).loc[:, [*ARM, "primary"]]
    drawn = found.dropna(subset=[f"{prefix}difference"]).merge(primaries, on=ARM)
    if drawn.empty:
        raise NothingToDraw(f"there is nothing to draw: no two arms of a block share a seed with a {y}, one of them the reference")
    parts = blocks(drawn)
    figure, panels = sheet(parts, [0.21 * max(map(len, parts)) + 0.8, 0.25])
    for (axes, below), members in zip(panels, parts, strict=True):
        _forest(axes, members, prefix)
        name = "nll per token" if y == "nll" else str(members["primary"].iloc[0]).replace("_", " ")
        tidy(axes, f"{name}: better than {members['reference'].iloc[0]} by")
        look = {"color": GREY, "linestyle": "none", "marker": "o", "markersize": 5}
        open_ = Line2D([], [], markerfacecolor="white", label="may be chance", **look)
        legend(below, [Line2D([], [], label=f"Holm's p < {LEVEL}", **look), open_])
    seeds = sorted(set(drawn["n"]))
    keys = [*drawn[ARM].itertuples(index=False, name=None), *drawn[[*BLOCK, "reference"]].itertuples(index=False, name=None)]
    arms = runs.drop_duplicates(ARM)
    names = zip(arms[ARM].itertuples(index=False, name=None), arms[[*BLOCK, "label"]].itertuples(index=False, name=None), strict=True)
    missing = arms.loc[[not {arm, label} & set(keys) for arm, label in names]]
    bare = drawn.loc[drawn[f"{prefix}low"].isna()]
    unsure = ", ".join(f"{label} ({task})" for label, task in zip(bare["label"], bare["task"], strict=True))
    over = sorted({str(each) for each in drawn[f"{prefix}over"].dropna()})
    notes = [
        f"95 % intervals over {' or '.join(over)}" if over else "",
        f"{' or '.join(map(str, seeds))} shared seed{'s' if seeds != [1] else ''}",
        f"no interval: {unsure}" if unsure else "",
        note,
        not_drawn(list(missing["label"]), list(missing["task"])),
    ]
    annotate(figure, parts, notes)
    return figure


def _forest(axes: Axes, members: pd.DataFrame, prefix: str) -> None:
    names = list(members["label"])
    places = row_axis(axes, names, list(members["method"]))
    axes.axvline(0, color=GREY, linewidth=0.8, zorder=1)
    columns = [f"{prefix}{name}" for name in ("difference", "low", "high", "p_holm")]
    for place, method, (middle, low, high, p) in zip(places, members["method"], members[columns].to_numpy(float), strict=True):
        colour, marker = style(method)
        if np.isfinite(low):
            axes.plot([low, high], [place, place], color=colour, linewidth=1.4, zorder=2)
        face = colour if p < LEVEL else "white"
        axes.plot(middle, place, marker, color=colour, markerfacecolor=face, markersize=5, zorder=3)
    axes.margins(x=0.06)
