"""The gap between training and test loss: which method overfits."""

from dataclasses import dataclass
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from peftbench.analysis.blocks import Arm, Block, Run
from peftbench.analysis.estimates import Results
from peftbench.analysis.loss_curves import TAIL, curve
from peftbench.figures.panels import (
    NothingToDraw,
    Panels,
    beside,
    few_arms,
    legend,
    missing,
    row_axis,
    rows_height,
    trials_note,
)
from peftbench.figures.style import GREY, SMALL, style, tidy


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
    by_arm = {arm: {run: gap for run in arm.done if (gap := _gap(run))} for arm in block.arms}
    return {arm: by_run for arm, by_run in by_arm.items() if by_run}


def _gap(run: Run) -> Gap | None:
    loss, nll = curve(run, "train_loss").end(), run.value("nll")
    return None if loss is None or nll is None else Gap(loss, nll)


def gap(results: Results) -> Figure:
    """Final training loss and nll on unseen examples per arm, joined by a line whose length is the
    gap, a panel for each block. Raises NothingToDraw if no run that is done has both."""
    blocks, few = few_arms(results, results.final)
    drawn = {block: by_arm for block in blocks if (by_arm := gaps(block))}
    if not drawn:
        raise NothingToDraw("no run that is done has both a training curve and an nll")
    names = [[arm.label for arm in by_arm] for by_arm in drawn.values()]
    panels = Panels.of(drawn, [rows_height(names, 0.8), 0.25])
    for (axes, below), (block, by_arm) in zip(panels.axes, drawn.items(), strict=True):
        _dumbbells(axes, by_arm)
        look = {"color": GREY, "linestyle": "none", "marker": "o", "markersize": 5}
        text = f"training, last {100 * TAIL:.0f} % of steps"
        seen = Line2D([], [], markerfacecolor="white", label=text, **look)
        legend(below, [seen, Line2D([], [], label=f"{block.question.split} split", **look)])
    of_arms = [by_run for by_arm in drawn.values() for by_run in by_arm.values()]
    several = any(len(by_run) > 1 for by_run in of_arms)
    notes = [
        "training loss as seen while training: dropout is on and the model still changes",
        "means over seeds; at the right the gap, in brackets its smallest and largest"
        if several
        else "one seed; at the right the gap",
        few,
        trials_note(results),
        missing(blocks, {run for by_run in of_arms for run in by_run}),
    ]
    return panels.annotate(notes)


def _dumbbells(axes: Axes, by_arm: ByArm) -> None:
    methods = [arm.method for arm in by_arm]
    places = row_axis(axes, [arm.label for arm in by_arm], methods)
    for by_run, method, place in zip(by_arm.values(), methods, places, strict=True):
        colour, marker = style(method)
        of_arm = list(by_run.values())
        losses, nlls = [gap.train_loss for gap in of_arm], [gap.nll for gap in of_arm]
        row = [place, place]
        axes.plot([fmean(losses), fmean(nlls)], row, color=colour, linewidth=1.2, zorder=2)
        for seeds, face in ((losses, "white"), (nlls, colour)):
            ends = [min(seeds), max(seeds)]
            axes.plot(ends, row, color=colour, linewidth=3, alpha=0.3, zorder=1)
            look = {"color": colour, "markerfacecolor": face, "markersize": 5}
            axes.plot(fmean(seeds), place, marker, zorder=3, **look)
        sizes = [gap.size for gap in of_arm]
        text = f"{fmean(sizes):+z.3f}"
        if len(sizes) > 1:
            text += f" [{min(sizes):+z.3f}, {max(sizes):+z.3f}]"
        beside(axes, place, text, SMALL - 1.5)
    tidy(axes, "nll per token")
    axes.xaxis.set_major_locator(MaxNLocator(4))
    all_gaps = [gap for by_run in by_arm.values() for gap in by_run.values()]
    ends = [end for gap in all_gaps for end in (gap.train_loss, gap.nll)]
    room = 0.05 * (max(ends) - min(ends)) or 0.05
    axes.set_xlim(min(ends) - room, max(ends) + room)
