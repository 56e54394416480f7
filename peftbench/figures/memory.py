"""Where the memory of a training step goes: its parts at the peak, stacked per method."""

from collections import Counter

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from peftbench.analysis.blocks import Arm, Block, grouped
from peftbench.analysis.estimates import Results
from peftbench.analysis.measures import PARTS, mean
from peftbench.figures.panels import (
    NothingToDraw,
    Panels,
    legend,
    missing,
    row_axis,
    rows_height,
    trials_note,
)
from peftbench.figures.style import SMALL, tidy

# Light and dark as well as blue and yellow, and no method's colour: cividis, which colour-blind
# people see as others do.
SHADES = ("#00224e", "#434e6c", "#7d7c78", "#bbaf71", "#fee838")
HATCHES = ("", "//////", "", "", "")  # gradients stand between two others that are as dark
UNITS = ((1024.0**3, "GiB"), (1024.0**2, "MiB"), (1024.0, "KiB"))


Bars = dict[tuple[str, tuple[float, ...]], list[Arm]]  # arms by method and bytes of each part


def memory(results: Results) -> Figure:
    """What the live bytes at the peak of a training step are made of, a panel for each block of
    costs.

    Arms of a method that need the same are one bar. Raises NothingToDraw if no run that is done has
    these numbers.
    """
    drawn = {block: bars for block in results.costs if (bars := _bars(block))}
    if not drawn:
        raise NothingToDraw(
            "no run that is done has the parts of its memory; trials of searches do not count"
        )
    look = {"edgecolor": "white", "linewidth": 0}
    handles = [
        Patch(facecolor=shade, hatch=hatch, label=part.removeprefix("peak."), **look)
        for shade, hatch, part in zip(SHADES, HATCHES, PARTS, strict=True)
    ]
    panels = Panels.of(drawn, [rows_height([_names(bars) for bars in drawn.values()], 0.75), 0.25])
    for (axes, below), bars in zip(panels.axes, drawn.values(), strict=True):
        _draw(axes, bars)
        legend(below, handles)
    shown = {arm for bars in drawn.values() for arms in bars.values() for arm in arms}
    several = any(len(arm.done) > 1 for arm in shown)
    notes = [
        "live tensor bytes at the peak of one training step on the largest batch"
        + (", means over seeds" if several else ""),
        trials_note(results),
        missing(results.costs, shown),
    ]
    return panels.annotate(notes)


def _bars(block: Block) -> Bars:
    arms = [arm for arm in block.arms if _parts(arm)]
    return grouped(arms, lambda arm: (arm.method, _parts(arm)))


def _parts(arm: Arm) -> tuple[float, ...]:
    """In the order of PARTS; empty where one is not known."""
    values = [value for part in PARTS if (value := mean(arm, part)) is not None]
    return tuple(values) if len(values) == len(PARTS) else ()


def _names(bars: Bars) -> list[str]:
    """The method, where the bar stands for all arms of it."""
    counts = Counter(method for method, _ in bars)
    names: list[str] = []
    for (method, _), (first, *others) in bars.items():
        more = f" and {len(others)} more" if others else ""
        names.append(f"{first.label}{more}" if counts[method] > 1 else method)
    return names


def _draw(axes: Axes, bars: Bars) -> None:
    parts = np.array([parts for _, parts in bars])  # (bars, parts)
    largest = parts.sum(1).max()
    unit, name = next(pair for pair in UNITS if largest >= pair[0] or pair == UNITS[-1])
    parts = parts / unit
    left = np.zeros(len(bars))
    places = row_axis(axes, _names(bars), [method for method, _ in bars])
    for widths, shade, hatch in zip(parts.T, SHADES, HATCHES, strict=True):
        look = {"color": shade, "hatch": hatch, "edgecolor": "white", "linewidth": 0.4}
        axes.barh(places, widths, left=left, height=0.7, **look)
        left = left + widths
    for place, total in zip(places, left, strict=True):
        look = {"textcoords": "offset points", "va": "center", "fontsize": SMALL}
        axes.annotate(f"{total:.3g}", (total, place), (3, 0), **look)
    tidy(axes, f"{name} at the peak")
    axes.set_xlim(0, 1.12 * left.max())
    axes.grid(visible=False, axis="y")
