"""Where a weight's size lies, and that of its change: the part of their squared singular values in
the first directions."""

import re
from collections.abc import Sequence
from statistics import fmean

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from peftbench.analysis.blocks import Run
from peftbench.analysis.results import Results
from peftbench.figures.panels import Panels, few_arms, having, left_out, legend
from peftbench.figures.style import COLOURS, PANEL, tidy
from peftbench.figures.ticks import only_ticks

PARTS = {
    "weight": ("W as pre-trained", "--", COLOURS["frozen"]),
    "change": ("dW of full fine-tuning", "-", COLOURS["full"]),
}


def singular_values(results: Results) -> Figure:
    """The part of the sum of squared singular values that the first k hold, over k, of weights and
    of what full fine-tuning changes in them. Raises NothingToDraw where no run has them."""
    drawn, few = few_arms(results, having(results.final, _directions), most=1)
    missing = "no run of full fine-tuning on test has singular values"
    panels = Panels(drawn, missing, [PANEL[1] - 0.6, 0.3])
    for block, (axes, below) in panels.axes.items():
        directions = sorted(set.intersection(*map(_directions, block.runs)))
        legend(below, [_line(axes, block.runs, part, directions) for part in PARTS])
        tidy(axes, "first k singular directions", "part of the squared singular values")
        axes.set_xscale("log", base=2)
        only_ticks(axes, directions, str)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set_ylim(0, 1.02)
    notes = ["means over layers and seeds, bands from the smallest to the largest seed", few]
    return panels.annotate([*notes, *left_out(results)])


def _directions(run: Run) -> set[int]:
    """How many first directions the run has shares of."""
    known = (name for name, value in run.record.metrics.items() if value is not None)
    matches = (re.fullmatch(r"energy(\d+)\.change", name) for name in known)
    return {int(match[1]) for match in matches if match}


def _line(axes: Axes, runs: Sequence[Run], part: str, directions: list[int]) -> Line2D:
    name, dash, colour = PARTS[part]
    metrics = [run.record.metrics for run in runs]
    shares = np.array(
        [[values[f"energy{k}.{part}"] for k in directions] for values in metrics], float
    )
    band = {"color": colour, "alpha": 0.2, "linewidth": 0}
    axes.fill_between(directions, shares.min(0), shares.max(0), **band)
    ranks = [values.get(f"effective_rank.{part}") for values in metrics]
    rank = fmean(rank for rank in ranks if rank is not None)
    look = {"color": colour, "marker": "o", "markersize": 3}
    label = f"{name}, effective rank {rank:.3g}"
    return axes.plot(directions, shares.mean(0), dash, label=label, **look)[0]
