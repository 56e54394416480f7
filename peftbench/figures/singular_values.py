"""Where a weight's size lies, and that of its change: the part of their squared singular values in
the first directions."""

import re
from collections.abc import Sequence
from statistics import fmean

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter, ScalarFormatter

from peftbench.analysis.blocks import Run
from peftbench.analysis.estimates import Results
from peftbench.figures.panels import NothingToDraw, Panels, few_arms, legend, trials_note
from peftbench.figures.style import COLOURS, PANEL, tidy

PARTS = {
    "weight": ("W as pre-trained", "--", COLOURS["frozen"]),
    "change": ("dW of full fine-tuning", "-", COLOURS["full"]),
}


def singular_values(results: Results) -> Figure:
    """The part of the sum of squared singular values that the first k hold, over k, of weights and
    of what full fine-tuning changes in them. Raises NothingToDraw where no run has them."""
    arms = {
        block: [arm for arm in block.arms if any(map(_directions, arm.done))]
        for block in results.final
    }
    measured = [block.only(members) for block, members in arms.items() if members]
    if not measured:
        raise NothingToDraw("no run of full fine-tuning on test has singular values")
    drawn, few = few_arms(results, measured, most=1)
    panels = Panels.of(drawn, [PANEL[1] - 0.6, 0.3])
    for (axes, below), block in zip(panels.axes, drawn, strict=True):
        runs = [run for run in block.runs if _directions(run)]
        directions = sorted(set.intersection(*map(_directions, runs)))
        legend(below, [_line(axes, runs, part, directions) for part in PARTS])
        _finish(axes, directions)
    notes = ["means over layers and seeds, bands from the smallest to the largest seed", few]
    return panels.annotate([*notes, trials_note(results)])


def _directions(run: Run) -> set[int]:
    """How many first directions the run has shares of."""
    names = [name for name, value in run.record.metrics.items() if value is not None]
    matches = [re.fullmatch(r"energy(\d+)\.change", name) for name in names]
    return {int(match[1]) for match in matches if match}


def _line(axes: Axes, runs: Sequence[Run], part: str, directions: list[int]) -> Line2D:
    name, dash, colour = PARTS[part]
    metrics = [run.record.metrics for run in runs]
    shares = np.array(
        [[values[f"energy{k}.{part}"] for k in directions] for values in metrics], float
    )
    axes.fill_between(
        directions, shares.min(0), shares.max(0), color=colour, alpha=0.2, linewidth=0
    )
    ranks = [values.get(f"effective_rank.{part}") for values in metrics]
    rank = fmean(rank for rank in ranks if rank is not None)
    look = {"color": colour, "marker": "o", "markersize": 3}
    label = f"{name}, effective rank {rank:.3g}"
    return axes.plot(directions, shares.mean(0), dash, label=label, **look)[0]


def _finish(axes: Axes, directions: list[int]) -> None:
    tidy(axes, "first k singular directions", "part of the squared singular values")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(directions))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_ylim(0, 1.02)
