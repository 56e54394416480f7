"""Where a weight's size lies, and that of its change: the part of their squared singular values in
the first directions."""

import re

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter, ScalarFormatter

from peftbench.analysis.frame import distinct
from peftbench.figures.sheet import annotate, blocks, few_arms, legend, sheet
from peftbench.figures.style import COLOURS, PANEL, NothingToDraw, tidy

PARTS = {
    "weight": ("W as pre-trained", "--", COLOURS["frozen"]),
    "change": ("dW of full fine-tuning", "-", COLOURS["full"]),
}


def singular_values(runs: pd.DataFrame) -> Figure:
    """The part of the sum of squared singular values that the first k hold, over k, of weights and
    of what full fine-tuning changes in them. Raises NothingToDraw where no run has them."""
    matches = (re.fullmatch(r"metric\.energy(\d+)\.weight", str(column)) for column in runs.columns)
    directions = sorted(int(match[1]) for match in matches if match)
    columns = [f"metric.energy{k}.{part}" for k in directions for part in PARTS]
    known = distinct(runs).query("status == 'done'").dropna(subset=columns)
    if not columns or known.empty:
        raise NothingToDraw(
            "there is nothing to draw: no run of full fine-tuning on test has singular values"
        )
    drawn, note = few_arms(known, most=1)
    parts = blocks(drawn)
    figure, panels = sheet(parts, [PANEL[1] - 0.6, 0.3])
    for (axes, below), members in zip(panels, parts, strict=True):
        legend(below, [_line(axes, members, part, directions) for part in PARTS])
        _finish(axes, directions)
    annotate(
        figure,
        parts,
        ["means over layers and seeds, bands from the smallest to the largest seed", note],
    )
    return figure


def _line(axes: Axes, members: pd.DataFrame, part: str, directions: list[int]) -> Line2D:
    name, dash, colour = PARTS[part]
    shares = members[[f"metric.energy{k}.{part}" for k in directions]]  # (seeds, directions)
    axes.fill_between(directions, shares.min(), shares.max(), color=colour, alpha=0.2, linewidth=0)
    rank = f"{name}, effective rank {members[f'metric.effective_rank.{part}'].mean():.3g}"
    return axes.plot(
        directions, shares.mean(), dash, color=colour, marker="o", markersize=3, label=rank
    )[0]


def _finish(axes: Axes, directions: list[int]) -> None:
    tidy(axes, "first k singular directions", "part of the squared singular values")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(directions))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_ylim(0, 1.02)
