"""Training curves: how the losses fall, a line per arm and a band over its seeds."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from peftbench.analysis.blocks import Block, Run
from peftbench.analysis.loss_curves import Curve, Loss, curve, window
from peftbench.analysis.results import Results
from peftbench.figures.panels import Panels, few_arms, having, left_out, legend, legend_height
from peftbench.figures.style import line_styles, tidy

MARKS = 6  # markers along a line
LOSSES: dict[Loss, str] = {"train_loss": "training loss", "valid_loss": "loss on the valid split"}


def training_curves(results: Results) -> Figure:
    """The training loss, smoothed over a tenth of the curve, and below it the loss on the valid
    split, a panel for each block. Raises NothingToDraw if no run that is done has any."""
    blocks, few = few_arms(results, results.final)
    drawn = having(blocks, lambda run: run.record.curve)
    runs = {run for block in drawn for run in block.runs}
    valid = any(_points(run, "valid_loss") for run in runs)
    heights = [2.3, *([1.7] if valid else []), legend_height(drawn)]
    panels = Panels(drawn, "no run that is done has a training curve", heights)
    for block, (*axes, below) in panels.axes.items():
        legend(below, _panel(axes, block))
    widths = sorted({window(n) for run in runs if (n := _points(run, "train_loss"))})
    several = len({run.seed for run in runs}) > 1
    notes = [
        f"training loss: running mean over {' or '.join(map(str, widths))} "
        f"step{'s' if widths != [1] else ''}",
        "lines: means over seeds; bands: smallest to largest" if several else "one seed",
        "" if valid else "no loss on the valid split was taken while training",
        few,
        *left_out(results, blocks, runs),
    ]
    return panels.annotate(notes)


def _points(run: Run, loss: Loss) -> int:
    return len(curve(run, loss).losses)


def _panel(panel: list[Axes], block: Block) -> list[Line2D]:
    """Draw a block's losses; returns what its legend shows."""
    handles: list[Line2D] = []
    for place, (arm, look) in enumerate(zip(block.arms, line_styles(block.arms), strict=True), 1):
        look |= {"markersize": 3.5}
        handles.append(Line2D([], [], label=arm.label, **look))
        for axes, loss in zip(panel, LOSSES, strict=False):
            curves = [curve(run, loss) for run in arm.runs if _points(run, loss)]
            if loss == "train_loss":
                curves = [of_run.smoothed() for of_run in curves]
            if curves:
                _line(axes, curves, place, look)
    for axes, name in zip(panel, LOSSES.values(), strict=False):
        space = "\n" if len(panel) > 1 else " "
        tidy(axes, "step" if axes is panel[-1] else "", f"{name}{space}(nll per token)")
    return handles


def _line(axes: Axes, curves: list[Curve], place: int, look: dict[str, Any]) -> None:
    """A line through the means of an arm's runs, a band between their smallest and largest."""
    series = [pd.Series(of_run.losses, of_run.steps) for of_run in curves]
    shared = pd.concat(series, axis=1, join="inner")  # of the steps that all curves have
    steps, losses = shared.index.to_numpy(), shared.to_numpy().T  # (n,), (curves, n)
    every = max(1, len(steps) // MARKS)
    marks = (place * every // 8 % every, every)  # those of different lines do not lie on each other
    axes.plot(steps, losses.mean(0), markevery=marks, **look)
    if len(curves) > 1:
        look = {"color": look["color"], "alpha": 0.15, "linewidth": 0}
        axes.fill_between(steps, losses.min(0), losses.max(0), **look)
