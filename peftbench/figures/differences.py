"""How much better or worse than a reference each arm is, task by task, with 95 % intervals."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from peftbench.analysis.frame import ARM, BLOCK
from peftbench.figures.pareto import Y
from peftbench.figures.sheet import (
    annotate,
    blocks,
    legend,
    not_drawn,
    row_axis,
    rows_height,
    sheet,
    short_names,
)
from peftbench.figures.style import GREY, NothingToDraw, style, tidy

LEVEL = 0.05
PREFIX = {"metric": "", "nll": "nll."}


def differences(found: pd.DataFrame, runs: pd.DataFrame, y: Y = "metric", note: str = "") -> Figure:
    """The differences of `stats.differences`, positive is better, a panel for each block of runs
    that may be compared; filled: more than chance after Holm's correction over the block. runs:
    those that `found` was made from; note: what is to be said of them.

    Raises NothingToDraw if there is no difference.
    """
    prefix = PREFIX[y]
    drawn = found.dropna(subset=[f"{prefix}difference"]).merge(_named(runs), on=ARM)
    if drawn.empty:
        raise NothingToDraw(
            f"there is nothing to draw: no two arms of a block share a seed with a {y}, one of them the reference"
        )
    parts = blocks(drawn)
    names = [list(members["name"]) for members in parts]
    figure, panels = sheet(parts, [rows_height(names, 0.8), 0.25])
    references: dict[str, None] = {}
    for (axes, below), members, each in zip(panels, parts, names, strict=True):
        _forest(axes, members, each, prefix)
        reference = str(members["reference"].iloc[0])
        references[f"{members['task'].iloc[0]}: {reference}"] = None
        name = "nll per token" if y == "nll" else str(members["primary"].iloc[0]).replace("_", " ")
        tidy(axes, f"{name}: better than {reference.partition(' (')[0]} by")
        look = {"color": GREY, "linestyle": "none", "marker": "o", "markersize": 5}
        open_ = Line2D([], [], markerfacecolor="white", label="may be chance", **look)
        legend(below, [Line2D([], [], label=f"Holm's p < {LEVEL}", **look), open_])
    seeds = sorted(set(drawn["n"]))
    keys = [
        *drawn[ARM].itertuples(index=False, name=None),
        *drawn[[*BLOCK, "reference"]].itertuples(index=False, name=None),
    ]
    arms = runs.drop_duplicates(ARM)
    names = zip(
        arms[ARM].itertuples(index=False, name=None),
        arms[[*BLOCK, "label"]].itertuples(index=False, name=None),
        strict=True,
    )
    missing = arms.loc[[not {arm, label} & set(keys) for arm, label in names]]
    bare = drawn.loc[drawn[f"{prefix}low"].isna()]
    unsure = ", ".join(
        f"{label} ({task})" for label, task in zip(bare["label"], bare["task"], strict=True)
    )
    over = sorted({str(each) for each in drawn[f"{prefix}over"].dropna()})
    notes = [
        f"compared with {', '.join(references)}" if any("(" in name for name in references) else "",
        f"95 % intervals over {' or '.join(over)}" if over else "",
        f"{' or '.join(map(str, seeds))} shared seed{'s' if seeds != [1] else ''}",
        f"no interval: {unsure}" if unsure else "",
        note,
        not_drawn(list(missing["label"]), list(missing["task"])),
    ]
    annotate(figure, parts, notes)
    return figure


def _named(runs: pd.DataFrame) -> pd.DataFrame:
    """Each arm's metric, and a name that tells it from all of its block, the reference too."""
    parts = [members.drop_duplicates("arm") for members in blocks(runs)]
    named = [
        members.assign(name=short_names(members)).loc[:, [*ARM, "primary", "name"]]
        for members in parts
    ]
    return pd.concat(named) if named else pd.DataFrame(columns=[*ARM, "primary", "name"])


def _forest(axes: Axes, members: pd.DataFrame, names: list[str], prefix: str) -> None:
    places = row_axis(axes, names, list(members["method"]))
    axes.axvline(0, color=GREY, linewidth=0.8, zorder=1)
    columns = [f"{prefix}{name}" for name in ("difference", "low", "high", "p_holm")]
    for place, method, (middle, low, high, p) in zip(
        places, members["method"], members[columns].to_numpy(float), strict=True
    ):
        colour, marker = style(method)
        if np.isfinite(low):
            axes.plot([low, high], [place, place], color=colour, linewidth=1.4, zorder=2)
        face = colour if p < LEVEL else "white"
        axes.plot(middle, place, marker, color=colour, markerfacecolor=face, markersize=5, zorder=3)
    axes.margins(x=0.06)
    axes.xaxis.set_major_locator(MaxNLocator(5))
