"""The gap between training and test loss: which method overfits."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from peftbench.analysis.frame import ARM, distinct
from peftbench.analysis.loss_curves import RUN, final_loss
from peftbench.figures.sheet import (
    annotate,
    blocks,
    few_arms,
    final,
    legend,
    not_drawn,
    row_axis,
    rows_height,
    sheet,
    short_names,
    tuning,
    without,
)
from peftbench.figures.style import GREY, SMALL, NothingToDraw, style, tidy


def gaps(runs: pd.DataFrame, points: pd.DataFrame, part: float = 0.1) -> pd.DataFrame:
    """The rows of `runs` that are done, with `train_loss` (the mean over the last `part` of the
    steps, as seen while training) and `gap`, the run's nll minus that; runs that lack one are left
    out. points: of curves.curves."""
    done = distinct(runs).query("status == 'done'").merge(final_loss(points, part), on=RUN)
    return done.assign(gap=done["nll"] - done["train_loss"]).dropna(subset=["gap"])


def gap(runs: pd.DataFrame, points: pd.DataFrame) -> Figure:
    """Final training loss and nll on unseen examples per arm, joined by a line whose length is the
    gap, a panel for each block of runs that may be compared. Raises NothingToDraw if no run that is
    done has both."""
    chosen, note = few_arms(final(distinct(runs)))
    drawn = gaps(chosen, points)
    if drawn.empty:
        raise NothingToDraw(
            "there is nothing to draw: no run that is done has both a training curve and an nll"
        )
    parts = blocks(drawn)
    names = [short_names(members.drop_duplicates(ARM)) for members in parts]
    figure, panels = sheet(parts, [rows_height(names, 0.8), 0.25])
    for (axes, below), members in zip(panels, parts, strict=True):
        _dumbbells(axes, members)
        look = {"color": GREY, "linestyle": "none", "markersize": 5}
        split = members["split"].iloc[0]
        seen = Line2D(
            [],
            [],
            marker="o",
            markerfacecolor="white",
            label="training, last 10 % of steps",
            **look,
        )
        legend(below, [seen, Line2D([], [], marker="o", label=f"{split} split", **look)])
    missing = without(chosen, drawn)
    several = len(set(drawn["seed"])) > 1
    notes = [
        "training loss as seen while training: dropout is on and the model still changes",
        "means over seeds; at the right the gap, in brackets its smallest and largest"
        if several
        else "one seed; at the right the gap",
        note,
        tuning(runs),
        not_drawn(list(missing["label"]), list(missing["task"])),
    ]
    annotate(figure, parts, notes)
    return figure


def _dumbbells(axes: Axes, members: pd.DataFrame) -> None:
    arms = members.drop_duplicates(ARM)
    places = row_axis(axes, short_names(arms), list(arms["method"]))
    low, high = (
        members[["train_loss", "nll"]].min().min(),
        members[["train_loss", "nll"]].max().max(),
    )
    for (arm, method), place in zip(
        arms[["arm", "method"]].itertuples(index=False), places, strict=True
    ):
        runs = members.loc[members["arm"] == arm]
        colour, marker = style(method)
        ends = runs["train_loss"].mean(), runs["nll"].mean()
        axes.plot(ends, [place, place], color=colour, linewidth=1.2, zorder=2)
        for end, value, face in (
            (ends[0], runs["train_loss"], "white"),
            (ends[1], runs["nll"], colour),
        ):
            axes.plot(
                [value.min(), value.max()],
                [place, place],
                color=colour,
                linewidth=3,
                alpha=0.3,
                zorder=1,
            )
            axes.plot(
                end, place, marker, color=colour, markerfacecolor=face, markersize=5, zorder=3
            )
        text = f"{runs['gap'].mean():+z.3f}"
        if len(runs) > 1:
            text += f" [{runs['gap'].min():+z.3f}, {runs['gap'].max():+z.3f}]"
        axes.annotate(
            text,
            (1.01, place),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=SMALL - 1.5,
        )
    tidy(axes, "nll per token")
    axes.xaxis.set_major_locator(MaxNLocator(4))
    room = 0.05 * (high - low) or 0.05
    axes.set_xlim(low - room, high + room)
