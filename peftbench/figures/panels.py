"""A figure of panels, one for each block of runs that may be compared: layout, titles, legends,
named rows, and the notes below."""

import math
import textwrap
from collections import Counter
from collections.abc import Collection, Iterable, Sequence, Set
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from peftbench.analysis.blocks import Arm, Block, Run, grouped
from peftbench.analysis.estimates import Results
from peftbench.analysis.intervals import Array
from peftbench.analysis.labels import differing, facts
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


@dataclass(frozen=True, eq=False)
class Panels:
    """A figure with the axes of each block, from top to bottom."""

    figure: Figure
    blocks: tuple[Block, ...]
    axes: tuple[list[Axes], ...]
    omit: frozenset[str]  # of labels.FACTS: what neither titles nor notes say

    @classmethod
    def of(
        cls,
        blocks: Iterable[Block],
        heights: Sequence[float] = (PANEL[1],),
        omit: Collection[str] = (),
    ) -> "Panels":
        """Axes as high as `heights` in inches say. Titles say in what the blocks differ."""
        blocks = tuple(blocks)
        columns = min(len(blocks), COLUMNS)
        rows = math.ceil(len(blocks) / columns)
        size = (PANEL[0] * columns, sum(heights) * rows + 0.3)
        figure = Figure(figsize=size, layout="constrained", dpi=200)
        FigureCanvasAgg(figure)  # measures text; no pyplot, no window
        height_ratios = [*heights] * rows
        grid = figure.subplots(
            rows * len(heights), columns, squeeze=False, height_ratios=height_ratios
        )
        grid = grid.reshape(rows, len(heights), columns).swapaxes(1, 2)
        grid = grid.reshape(-1, len(heights))  # (panels, axes of a panel)
        for axes in grid[len(blocks) :].flat:
            axes.remove()
        apart = differing(blocks) - {*omit}
        for panel, block in zip(grid, blocks, strict=False):
            texts = [text for name, text in facts(block).items() if name in apart]
            title = textwrap.fill(", ".join([block.question.task, *texts]), TITLE)
            panel[0].set_title(title, fontsize=8, loc="left")
        return cls(figure, blocks, tuple(map(list, grid[: len(blocks)])), frozenset(omit))

    def annotate(self, notes: Iterable[str]) -> Figure:
        """Write under the panels what all blocks have in common, and the notes that are not empty;
        returns the figure."""
        left_out = differing(self.blocks) | self.omit
        common = [text for name, text in facts(self.blocks[0]).items() if name not in left_out]
        text = "; ".join([*common, *filter(None, notes)])
        text = textwrap.fill(text, NOTE * min(len(self.blocks), COLUMNS))
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
        mean = float(results.values(arm, "nll").numbers.mean()) if arm.done else math.nan
        return math.inf if math.isnan(mean) else mean

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


def trials_note(results: Results) -> str:
    """On the runs that are left out everywhere but in the figures of tuning."""
    count = len(results.trials)
    return f"{count} trial{'s' if count > 1 else ''} of searches not drawn" if count else ""


def named(block: Block, arm: Arm) -> str:
    return f"{arm.label} ({block.question.task})"


def missing(blocks: Iterable[Block], shown: Set[Arm | Run]) -> str:
    """A note on the runs that are not drawn: neither they nor their arms are shown."""
    return not_drawn(
        named(block, arm)
        for block in blocks
        for arm in block.arms
        for run in arm.runs
        if arm not in shown and run not in shown
    )


def not_drawn(names: Iterable[str], why: str = "") -> str:
    """A note on what is missing; nothing if nothing is."""
    counts = Counter(names)
    if not counts:
        return ""
    texts = [name if number == 1 else f"{name} x{number}" for name, number in counts.items()]
    more = [f"and {len(texts) - MOST_NAMED} more"] if len(texts) > MOST_NAMED else []
    return f"not drawn{why}: {', '.join([*texts[:MOST_NAMED], *more])}"


# -- rows, legends, bars -------------------------------------------------------------------------


def rows_height(names: Sequence[Sequence[str]], around: float) -> float:
    """How high, in inches, panels with these rows of names must be, with `around` for the axis
    below and the title."""
    lines = max(len(textwrap.wrap(name, NAME)) for rows in names for name in rows)
    return max(map(len, names)) * (0.21 if lines == 1 else 0.12 * lines + 0.04) + around


def row_axis(axes: Axes, names: Sequence[str], methods: Sequence[str]) -> list[int]:
    """Make a vertical axis of named rows, the first on top, each name in its method's ink; returns
    the rows' places."""
    places = list(range(len(names)))
    axes.set_yticks(places, [textwrap.fill(name, NAME) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    for text, method in zip(axes.get_yticklabels(), methods, strict=True):
        text.set_color(ink(method))
    return places


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


def _legend_columns(names: Sequence[str]) -> int:
    """How many names stand side by side."""
    longest = max(map(len, names))
    if longest >= 12:
        return 2 if longest < 32 else 1
    return 5 if len(names) == 5 else 4


def legend_height(blocks: Iterable[Block]) -> float:
    """In inches, of legends that name all arms."""
    names = [[arm.label for arm in block.arms] for block in blocks]
    return 0.15 * max(math.ceil(len(labels) / _legend_columns(labels)) for labels in names) + 0.1


def means_and_bars(groups: Iterable[Sequence[float]]) -> tuple[Array, Array]:
    """The mean of each group (n,), and how far its smallest and largest values are (2, n)."""
    groups = tuple(groups)
    means = np.array([fmean(group) for group in groups])
    ends = np.array([[*map(min, groups)], [*map(max, groups)]])
    return means, np.abs(ends - means)
