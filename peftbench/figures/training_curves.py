"""Training curves: how the losses fall, a line per arm and a band over its seeds."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from peftbench.analysis.blocks import Arm, Block, Run
from peftbench.analysis.estimates import Results
from peftbench.analysis.intervals import Array
from peftbench.analysis.loss_curves import Curve, Loss, curve, window
from peftbench.figures.panels import (
    NothingToDraw,
    Panels,
    few_arms,
    legend,
    legend_height,
    missing,
    trials_note,
)
from peftbench.figures.style import line_styles, tidy

MARKS = 6  # markers along a line
LOSSES: dict[Loss, str] = {"train_loss": "training loss", "valid_loss": "loss on the valid split"}


def training_curves(results: Results, width: int | None = None) -> Figure:
    """The training loss, smoothed over `width` steps (odd; None: a tenth of a curve), and below it
    the loss on the valid split, a panel for each block. Raises NothingToDraw if no run that is done
    has any."""
    blocks, few = few_arms(results, results.final)
    drawn: list[Block] = []
    for block in blocks:
        arms = [Arm(arm.label, runs) for arm in block.arms if (runs := _with_losses(arm))]
        drawn += [block.only(arms)] if arms else []
    if not drawn:
        raise NothingToDraw("no run that is done has a training curve")
    runs = {run for block in drawn for run in block.runs}
    valid = any(len(curve(run, "valid_loss").losses) for run in runs)
    panels = Panels.of(drawn, [2.3, *([1.7] if valid else []), legend_height(drawn)])
    for panel, block in zip(panels.axes, drawn, strict=True):
        legend(panel[-1], _panel(panel[:-1], block, width))
    points = {len(curve(run, "train_loss").losses) for run in runs} - {0}
    several = len({run.seed for run in runs}) > 1
    notes = [
        f"training loss: running mean over {_widths({width or window(n) for n in points})}",
        "lines: means over seeds; bands: smallest to largest" if several else "one seed",
        "" if valid else "no loss on the valid split was taken while training",
        few,
        trials_note(results),
        missing(blocks, runs),
    ]
    return panels.annotate(notes)


def _with_losses(arm: Arm) -> tuple[Run, ...]:
    return tuple(run for run in arm.done if any(len(curve(run, loss).losses) for loss in LOSSES))


def _widths(widths: set[int]) -> str:
    return f"{' or '.join(map(str, sorted(widths)))} step{'s' if widths != {1} else ''}"


def _panel(panel: list[Axes], block: Block, width: int | None) -> list[Line2D]:
    """Draw a block's losses; returns what its legend shows."""
    handles: list[Line2D] = []
    styles = line_styles(arm.method for arm in block.arms)
    for place, (arm, look) in enumerate(zip(block.arms, styles, strict=True), 1):
        look |= {"markersize": 3.5}
        handles.append(Line2D([], [], label=arm.label, **look))
        for axes, loss in zip(panel, LOSSES, strict=False):
            curves = [curve(run, loss) for run in arm.runs]
            curves = [of_run for of_run in curves if len(of_run.losses)]
            if loss == "train_loss":
                curves = [of_run.smoothed(width) for of_run in curves]
            if curves:
                _line(axes, curves, place, look)
    for axes, name in zip(panel, LOSSES.values(), strict=False):
        tidy(axes, y=f"{name}\n(nll per token)" if len(panel) > 1 else f"{name} (nll per token)")
    panel[-1].set_xlabel("step", fontsize=8)
    return handles


def _line(axes: Axes, curves: list[Curve], place: int, look: dict[str, Any]) -> None:
    """A line through the means of an arm's runs, a band between their smallest and largest."""
    steps, losses = _aligned(curves)
    every = max(1, len(steps) // MARKS)
    marks = (place * every // 8 % every, every)  # those of different lines do not lie on each other
    axes.plot(steps, losses.mean(0), markevery=marks, **look)
    if len(curves) > 1:
        look = {"color": look["color"], "alpha": 0.15, "linewidth": 0}
        axes.fill_between(steps, losses.min(0), losses.max(0), **look)


def _aligned(curves: list[Curve]) -> tuple[Array, Array]:
    """The steps that all curves have, (n,), and their losses there, (curves, n)."""
    steps = curves[0].steps
    for other in curves[1:]:
        steps = steps[np.isin(steps, other.steps)]
    losses = [of_run.losses[np.isin(of_run.steps, steps)] for of_run in curves]
    return steps, np.stack(losses)
