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


Drawn = dict[Arm, dict[Run, Gap]]  # of a block, without what has none


def gaps(block: Block) -> Drawn:
    """Of the runs that are done and have both losses."""
    known = {arm: {run: gap for run in arm.done if (gap := _gap(run))} for arm in block.arms}
    return {arm: values for arm, values in known.items() if values}


def _gap(run: Run) -> Gap | None:
    loss, nll = curve(run, "train_loss").end(), run.value("nll")
    return None if loss is None or nll is None else Gap(loss, nll)


def gap(results: Results) -> Figure:
    """Final training loss and nll on unseen examples per arm, joined by a line whose length is the
    gap, a panel for each block. Raises NothingToDraw if no run that is done has both."""
    blocks, few = few_arms(results, results.final)
    drawn = {block: known for block in blocks if (known := gaps(block))}
    if not drawn:
        raise NothingToDraw("no run that is done has both a training curve and an nll")
    names = [[arm.label for arm in known] for known in drawn.values()]
    panels = Panels.of(drawn, [rows_height(names, 0.8), 0.25])
    for (axes, below), (block, known) in zip(panels.axes, drawn.items(), strict=True):
        _dumbbells(axes, known)
        look = {"color": GREY, "linestyle": "none", "marker": "o", "markersize": 5}
        text = f"training, last {100 * TAIL:.0f} % of steps"
        seen = Line2D([], [], markerfacecolor="white", label=text, **look)
        legend(below, [seen, Line2D([], [], label=f"{block.question.split} split", **look)])
    by_arm = [of_arm for known in drawn.values() for of_arm in known.values()]
    several = any(len(of_arm) > 1 for of_arm in by_arm)
    notes = [
        "training loss as seen while training: dropout is on and the model still changes",
        "means over seeds; at the right the gap, in brackets its smallest and largest"
        if several
        else "one seed; at the right the gap",
        few,
        trials_note(results),
        missing(blocks, {run for of_arm in by_arm for run in of_arm}),
    ]
    return panels.annotate(notes)


def _dumbbells(axes: Axes, known: Drawn) -> None:
    methods = [arm.method for arm in known]
    places = row_axis(axes, [arm.label for arm in known], methods)
    for by_run, method, place in zip(known.values(), methods, places, strict=True):
        colour, marker = style(method)
        values = list(by_run.values())
        losses, nlls = [each.train_loss for each in values], [each.nll for each in values]
        row = [place, place]
        axes.plot([fmean(losses), fmean(nlls)], row, color=colour, linewidth=1.2, zorder=2)
        for seeds, face in ((losses, "white"), (nlls, colour)):
            ends = [min(seeds), max(seeds)]
            axes.plot(ends, row, color=colour, linewidth=3, alpha=0.3, zorder=1)
            look = {"color": colour, "markerfacecolor": face, "markersize": 5}
            axes.plot(fmean(seeds), place, marker, zorder=3, **look)
        sizes = [each.size for each in values]
        text = f"{fmean(sizes):+z.3f}"
        if len(sizes) > 1:
            text += f" [{min(sizes):+z.3f}, {max(sizes):+z.3f}]"
        beside(axes, place, text, SMALL - 1.5)
    tidy(axes, "nll per token")
    axes.xaxis.set_major_locator(MaxNLocator(4))
    every = [each for by_run in known.values() for each in by_run.values()]
    ends = [end for each in every for end in (each.train_loss, each.nll)]
    room = 0.05 * (max(ends) - min(ends)) or 0.05
    axes.set_xlim(min(ends) - room, max(ends) + room)
