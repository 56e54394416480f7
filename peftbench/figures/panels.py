"""A figure of panels, one for each block of runs that may be compared: layout, titles, legends,
named rows, and the notes below."""

import math
import textwrap
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from peftbench.analysis.blocks import Arm, Block, Run, grouped
from peftbench.analysis.labels import differing, facts, telling
from peftbench.analysis.results import Results
from peftbench.errors import InputError
from peftbench.figures.style import GREY, PANEL, SMALL, ink

COLUMNS = 2  # panels side by side
TITLE = 42  # characters of a title's line: a longer one would take its width from the axes
NAME = 26  # characters of a row's name
NOTE = 78  # characters of a note's line under one column
MOST_ARMS = 14  # of a panel with a line or row for each
MOST_NAMED = 12  # of what a note says is not drawn


class NothingToDraw(InputError):  # noqa: N818  (not a mistake: an answer)
    """The runs hold nothing that a figure could show."""

    def __init__(self, what_is_missing: str) -> None:
        super().__init__(f"there is nothing to draw: {what_is_missing}")
        self.what_is_missing = what_is_missing


class Panels:
    """A figure with a panel for each block.

    axes: those of a panel from top to bottom. omit: of labels.facts, what neither titles nor notes
    say.
    """

    def __init__(
        self,
        blocks: Iterable[Block],
        missing: str,
        heights: Sequence[float] = (PANEL[1],),
        omit: Collection[str] = (),
    ) -> None:
        """Axes as high as `heights` in inches say. Titles say in what the blocks differ. Raises
        NothingToDraw, with what is missing, if there is no block."""
        blocks = tuple(blocks)
        if not blocks:
            raise NothingToDraw(missing)
        columns = min(len(blocks), COLUMNS)
        rows = math.ceil(len(blocks) / columns)
        size = (PANEL[0] * columns, sum(heights) * rows + 0.3)
        self.figure = Figure(figsize=size, layout="constrained", dpi=200)
        ratios = [*heights] * rows
        grid = self.figure.subplots(len(ratios), columns, squeeze=False, height_ratios=ratios)
        grid = grid.reshape(rows, -1, columns).swapaxes(1, 2)
        grid = grid.reshape(-1, len(heights))  # (panels, axes of a panel)
        for axes in grid[len(blocks) :].flat:
            axes.remove()
        self.axes: dict[Block, list[Axes]] = dict(zip(blocks, grid.tolist(), strict=False))
        self.unsaid = differing(blocks) | {*omit}  # in the notes
        apart = self.unsaid - {*omit}
        for block, (top, *_) in self.axes.items():
            texts = [text for name, text in facts(block).items() if name in apart]
            title = textwrap.fill(", ".join([block.question.task, *texts]), TITLE)
            top.set_title(title, fontsize=8, loc="left")

    def annotate(self, notes: Iterable[str]) -> Figure:
        """Write under the panels what all blocks have in common, and the notes that are not empty;
        returns the figure."""
        first, *_ = self.axes
        common = [text for name, text in telling(first).items() if name not in self.unsaid]
        text = "; ".join([*common, *filter(None, notes)])
        text = textwrap.fill(text, NOTE * min(len(self.axes), COLUMNS))
        self.figure.supxlabel(text, fontsize=6, color=GREY, x=0.01, ha="left")
        return self.figure


# -- which arms ----------------------------------------------------------------------------------


def few_arms(
    results: Results, blocks: Iterable[Block], most: int = MOST_ARMS
) -> tuple[list[Block], str]:
    """The blocks, those with more than `most` arms with each method's arm of the lowest mean nll
    only, and a note on it."""
    kept: list[Block] = []
    note = ""

    def nll(arm: Arm) -> float:
        mean = results.values(arm, "nll").numbers.mean() if arm.done else math.nan
        return math.inf if math.isnan(mean) else float(mean)

    for block in blocks:
        if len(block.arms) > most:
            by_method = grouped(block.arms, lambda arm: arm.method)
            block = block.only(min(arms, key=nll) for arms in by_method.values())
            note = (
                f"of more than {most} arm{'s' if most > 1 else ''}, each method's with the "
                "lowest nll, which flatters it: chosen on the same examples"
            )
        kept.append(block)
    return kept, note


def having(blocks: Iterable[Block], keep: Callable[[Run], object]) -> list[Block]:
    """The blocks with only the runs that are done and that `keep` is true of; without the arms and
    blocks that have none."""
    kept: list[Block] = []
    for block in blocks:
        runs = {arm.label: tuple(filter(keep, arm.done)) for arm in block.arms}
        arms = [Arm(label, of_arm) for label, of_arm in runs.items() if of_arm]
        kept += [block.only(arms)] if arms else []
    return kept


def named(block: Block, arm: Arm) -> str:
    return f"{arm.label} ({block.question.task})"


def left_out(
    results: Results, blocks: Iterable[Block] = (), shown: Set[Arm | Run] = frozenset()
) -> list[str]:
    """Notes on the trials of searches, which only the figures of tuning draw, and on the runs of
    blocks that are not shown, nor are their arms."""
    trials = len(results.trials)
    missing = [
        named(block, arm)
        for block in blocks
        for arm in block.arms
        for run in arm.runs
        if arm not in shown and run not in shown
    ]
    note = f"{trials} trial{'s' if trials > 1 else ''} of searches not drawn" if trials else ""
    return [note, not_drawn(missing)]


def not_drawn(names: Iterable[str], why: str = "") -> str:
    """A note on what is missing; nothing if nothing is."""
    counts = Counter(names)
    if not counts:
        return ""
    texts = [name if number == 1 else f"{name} x{number}" for name, number in counts.items()]
    more = [f"and {len(texts) - MOST_NAMED} more"] if len(texts) > MOST_NAMED else []
    return f"not drawn{why}: {', '.join([*texts[:MOST_NAMED], *more])}"


# -- rows, legends, bars -------------------------------------------------------------------------


def rows_height(panels: Collection[Collection[Arm]], around: float) -> float:
    """How high, in inches, panels with rows for these arms must be, with `around` for the axis
    below and the title."""
    labels = (textwrap.wrap(arm.label, NAME) for arms in panels for arm in arms)
    lines = max(map(len, labels), default=1)
    row = 0.21 if lines == 1 else 0.12 * lines + 0.04
    return max(map(len, panels), default=0) * row + around


def row_axis(axes: Axes, arms: Collection[Arm]) -> None:
    """Make a vertical axis of rows at 0, 1 and so on, the first on top, each named in its method's
    ink."""
    axes.set_yticks(range(len(arms)), [textwrap.fill(arm.label, NAME) for arm in arms])
    axes.set_ylim(len(arms) - 0.4, -0.6)
    for text, arm in zip(axes.get_yticklabels(), arms, strict=True):
        text.set_color(ink(arm.method))


def beside(
    axes: Axes, place: float, text: str, fontsize: float = SMALL - 1, color: str = "black"
) -> None:
    """Write at the right of a row."""
    look = {"va": "center", "fontsize": fontsize, "color": color}
    axes.annotate(text, (1.01, place), xycoords=("axes fraction", "data"), **look)


def legend(axes: Axes, handles: Sequence[Artist]) -> None:
    """Turn axes below a panel into its legend."""
    axes.axis("off")
    axes.legend(
        handles=handles,
        loc="upper center",
        ncols=_legend_columns([str(handle.get_label()) for handle in handles]),
        fontsize=SMALL - 1,
        frameon=False,
        borderaxespad=0,
        handlelength=2.4 if isinstance(handles[0], Line2D) else 1,
        columnspacing=1,
    )


def dot(label: str, face: str = GREY) -> Line2D:
    """A marker of a legend, whatever the method."""
    look: dict[str, Any] = {"color": GREY, "markerfacecolor": face, "linestyle": "none"}
    return Line2D([], [], label=label, marker="o", markersize=5, **look)


def _legend_columns(names: Sequence[str]) -> int:
    """How many names stand side by side."""
    longest = max(map(len, names))
    if longest >= 12:
        return 2 if longest < 32 else 1
    return 5 if len(names) == 5 else 4


def legend_height(blocks: Iterable[Block]) -> float:
    """In inches, of legends that name all arms."""
    names = [[arm.label for arm in block.arms] for block in blocks]
    rows = (math.ceil(len(labels) / _legend_columns(labels)) for labels in names)
    return 0.15 * max(rows, default=0) + 0.1


def line_of_means(axes: Axes, groups: Mapping[float, Sequence[float]], **look: Any) -> None:
    """A line through the means of groups, by their x, with bars from smallest to largest."""
    numbers = groups.values()
    means = np.array([*map(fmean, numbers)])
    bars = np.abs([[*map(min, numbers)], [*map(max, numbers)]] - means)  # (2, groups)
    axes.errorbar([*groups], means, bars, elinewidth=0.8, **look)
