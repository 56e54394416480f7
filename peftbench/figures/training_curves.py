"""Training curves: how the losses fall, a line per arm and a band over its seeds."""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from peftbench.analysis.frame import BLOCK, distinct
from peftbench.analysis.loss_curves import RUN, smoothed
from peftbench.figures.sheet import (
    annotate,
    blocks,
    few_arms,
    final,
    legend,
    legend_columns,
    not_drawn,
    sheet,
    short_names,
    tuning,
    without,
)
from peftbench.figures.style import DASHES, NothingToDraw, style, tidy

MARKS = 6  # markers along a line


def training(runs: pd.DataFrame, points: pd.DataFrame, window: int | None = None) -> Figure:
    """The training loss, smoothed over `window` steps (None: a tenth of a block's steps), and below
    it the loss on the valid split, a panel for each block of runs that may be compared. points: of
    curves.curves. Raises NothingToDraw if no run that is done has any."""
    chosen, note = few_arms(final(distinct(runs)))
    done = chosen.query("status == 'done'")
    drawn = done.merge(points, on=RUN, suffixes=("", ".point")).dropna(
        subset=["train_loss", "valid_loss"], how="all"
    )
    if drawn.empty:
        raise NothingToDraw("there is nothing to draw: no run that is done has a training curve")
    parts = blocks(drawn)
    valid = bool(drawn["valid_loss"].notna().any())
    names = [short_names(members.drop_duplicates("arm")) for members in parts]
    lines = max(math.ceil(len(each) / legend_columns(each)) for each in names)
    figure, panels = sheet(parts, [2.3, *([1.7] if valid else []), 0.15 * lines + 0.1])
    windows: list[int] = []
    for panel, members in zip(panels, parts, strict=True):
        windows.append(window or max(1, max(members["step"]) // 10) // 2 * 2 + 1)
        handles = _panel(panel[:-1], members, windows[-1])
        legend(panel[-1], handles)
    widths = (
        "one step"
        if set(windows) == {1}
        else f"{' or '.join(map(str, sorted(set(windows))))} steps"
    )
    missing = without(chosen, drawn)
    notes = [
        f"training loss: running mean over {widths}",
        "lines: means over seeds; bands: smallest to largest"
        if len(set(drawn["seed"])) > 1
        else "one seed",
        "" if valid else "no loss on the valid split was taken while training",
        note,
        tuning(runs),
        not_drawn(list(missing["label"]), list(missing["task"])),
    ]
    annotate(figure, parts, notes)
    return figure


def _panel(panel: list[Axes], members: pd.DataFrame, window: int) -> list[Line2D]:
    """Draw a block's losses; returns what its legend shows."""
    arms = members.drop_duplicates([*BLOCK, "arm"])
    before: dict[str, int] = {}
    handles: list[Line2D] = []
    for (method, arm), name in zip(
        arms[["method", "arm"]].itertuples(index=False), short_names(arms), strict=True
    ):
        colour, marker = style(method)
        dash = DASHES[before.setdefault(method, 0) % len(DASHES)]
        before[method] += 1
        look = {"color": colour, "linestyle": dash, "linewidth": 1.1}
        handles.append(Line2D([], [], marker=marker, markersize=3.5, label=name, **look))
        for axes, loss in zip(panel, ("train_loss", "valid_loss"), strict=False):
            table = (
                members.loc[members["arm"] == arm]
                .dropna(subset=[loss])
                .pivot_table(index="step", columns=RUN, values=loss)
            )
            if table.empty:
                continue
            values = table.to_numpy(float)
            if loss == "train_loss":
                values = np.column_stack([smoothed(column, window) for column in values.T])
            with_all = np.isfinite(values).all(
                1
            )  # runs of an arm take their losses at the same steps
            steps, values = table.index.to_numpy()[with_all], values[with_all]
            every = max(1, len(steps) // MARKS)
            axes.plot(
                steps,
                values.mean(1),
                marker=marker,
                markersize=3.5,
                markevery=(sum(before.values()) * every // 8 % every, every),
                **look,
            )
            if values.shape[1] > 1:
                axes.fill_between(
                    steps, values.min(1), values.max(1), color=colour, alpha=0.15, linewidth=0
                )
    for axes, name in zip(panel, ("training loss", "loss on the valid split"), strict=False):
        tidy(axes, y=f"{name}\n(nll per token)" if len(panel) > 1 else f"{name} (nll per token)")
    panel[-1].set_xlabel("step", fontsize=8)
    return handles
