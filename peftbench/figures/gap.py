"""The gap between training and test loss: which method overfits."""

from dataclasses import dataclass
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from peftbench.analysis.blocks import Arm, Block, Run
from peftbench.analysis.loss_curves import TAIL, curve
from peftbench.analysis.results import Results
from peftbench.figures.panels import (
    Panels,
    beside,
    dot,
    few_arms,
    left_out,
    legend,
    row_axis,
    rows_height,
)
from peftbench.figures.style import SMALL, style, tidy


@dataclass(frozen=True)
class Gap:
    """Of one run: its training loss at the end, as seen while training, and its nll."""

    train_loss: float
    nll: float

    @property
    def size(self) -> float:
        return self.nll - self.train_loss


ByArm = dict[Arm, dict[Run, Gap]]  # of a block, without what has none


def gaps(block: Block) -> ByArm:
    """Of the runs that are done and have both losses."""
    by_arm: ByArm = {}
    for arm in block.arms:
        for run in arm.done:
            loss, nll = curve(run, "train_loss").end(), run.value("nll")
            if loss is not None and nll is not None:
                by_arm.setdefault(arm, {})[run] = Gap(loss, nll)
    return by_arm


def gap(results: Results) -> Figure:
    """Final training loss and nll on unseen examples per arm, joined by a line whose length is the
    gap, a panel for each block. Raises NothingToDraw if no run that is done has both."""
    blocks, few = few_arms(results, results.final)
    drawn = {block: by_arm for block in blocks if (by_arm := gaps(block))}
    missing = "no run that is done has both a training curve and an nll"
    panels = Panels(drawn, missing, [rows_height(drawn.values(), 0.8), 0.25])
    for block, by_arm in drawn.items():
        axes, below = panels.axes[block]
        _dumbbells(axes, by_arm)
        seen = dot(f"training, last {100 * TAIL:.0f} % of steps", "white")
        legend(below, [seen, dot(f"{block.question.split} split")])
    of_arms = [by_run for by_arm in drawn.values() for by_run in by_arm.values()]
    several = any(len(by_run) > 1 for by_run in of_arms)
    notes = [
        "training loss as seen while training: dropout is on and the model still changes",
        "means over seeds; at the right the gap, in brackets its smallest and largest"
        if several
        else "one seed; at the right the gap",
        few,
        *left_out(results, blocks, {run for by_run in of_arms for run in by_run}),
    ]
    return panels.annotate(notes)


def _dumbbells(axes: Axes, by_arm: ByArm) -> None:
    row_axis(axes, by_arm)
    all_losses: list[float] = []
    for place, (arm, by_run) in enumerate(by_arm.items()):
        colour, marker = style(arm.method)
        losses = [gap.train_loss for gap in by_run.values()]
        nlls = [gap.nll for gap in by_run.values()]
        all_losses += losses + nlls
        row = [place, place]
        axes.plot([fmean(losses), fmean(nlls)], row, color=colour, linewidth=1.2, zorder=2)
        for seeds, face in ((losses, "white"), (nlls, colour)):
            ends = [min(seeds), max(seeds)]
            axes.plot(ends, row, color=colour, linewidth=3, alpha=0.3, zorder=1)
            look = {"color": colour, "markerfacecolor": face, "markersize": 5}
            axes.plot(fmean(seeds), place, marker, zorder=3, **look)
        sizes = [gap.size for gap in by_run.values()]
        text = f"{fmean(sizes):+z.3f}"
        if len(sizes) > 1:
            text += f" [{min(sizes):+z.3f}, {max(sizes):+z.3f}]"
        beside(axes, place, text, SMALL - 1.5)
    tidy(axes, "nll per token")
    axes.xaxis.set_major_locator(MaxNLocator(4))
    low, high = min(all_losses), max(all_losses)
    room = 0.05 * (high - low) or 0.05
    axes.set_xlim(low - room, high + room)
