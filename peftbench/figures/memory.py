"""Where the memory of a training step goes: its parts at the peak, stacked per method."""

from collections import Counter

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from peftbench.analysis.blocks import Arm, Block, grouped
from peftbench.analysis.measures import PARTS, mean
from peftbench.analysis.results import Results
from peftbench.figures.panels import Panels, left_out, legend, row_axis, rows_height
from peftbench.figures.style import SMALL, tidy

# Light and dark as well as blue and yellow, and no method's colour: cividis, which colour-blind
# people see as others do.
SHADES = ("#00224e", "#434e6c", "#7d7c78", "#bbaf71", "#fee838")
HATCHES = ("", "//////", "", "", "")  # gradients stand between two others that are as dark
UNITS = ((1024.0**3, "GiB"), (1024.0**2, "MiB"), (1024.0, "KiB"))

Bars = dict[Arm, tuple[float, ...]]  # bytes of each part


def memory(results: Results) -> Figure:
    """What the live bytes at the peak of a training step are made of, a panel for each block of
    costs.

    Arms of a method that need the same are one bar. Raises NothingToDraw if no run that is done has
    these numbers.
    """
    drawn = {block: bars for block in results.costs if (bars := _bars(block))}
    missing = "no run that is done has the parts of its memory; trials of searches do not count"
    look = {"edgecolor": "white", "linewidth": 0}
    handles = [
        Patch(facecolor=shade, hatch=hatch, label=part.removeprefix("peak."), **look)
        for shade, hatch, part in zip(SHADES, HATCHES, PARTS, strict=True)
    ]
    panels = Panels(drawn, missing, [rows_height(drawn.values(), 0.75), 0.25])
    for block, bars in drawn.items():
        axes, below = panels.axes[block]
        _draw(axes, bars)
        legend(below, handles)
    shown = {run for bars in drawn.values() for arm in bars for run in arm.runs}
    several = any(len(shown.intersection(arm.done)) > 1 for block in drawn for arm in block.arms)
    what = "live tensor bytes at the peak of one training step on the largest batch"
    notes = [what + (", means over seeds" if several else "")]
    return panels.annotate([*notes, *left_out(results, results.costs, shown)])


def _bars(block: Block) -> Bars:
    """The arms that need the same as one, named by the method where that is all arms of it; without
    those of which a part is not known."""
    sizes = {
        arm: [size for part in PARTS if (size := mean(arm, part)) is not None] for arm in block.arms
    }
    known = [arm for arm, of_arm in sizes.items() if len(of_arm) == len(PARTS)]
    alike = grouped(known, lambda arm: (arm.method, tuple(sizes[arm])))
    bars_of = Counter(method for method, _ in alike)
    bars: Bars = {}
    for (method, parts), arms in alike.items():
        more = f" and {len(arms) - 1} more" if len(arms) > 1 else ""
        name = f"{arms[0].label}{more}" if bars_of[method] > 1 else method
        bars[Arm(name, tuple(run for arm in arms for run in arm.runs))] = parts
    return bars


def _draw(axes: Axes, bars: Bars) -> None:
    parts = np.array([*bars.values()])  # (bars, parts)
    largest = parts.sum(1).max()
    unit, name = next((pair for pair in UNITS if largest >= pair[0]), UNITS[-1])
    row_axis(axes, bars)
    places, left = range(len(bars)), np.zeros(len(bars))
    for widths, shade, hatch in zip(parts.T / unit, SHADES, HATCHES, strict=True):
        look = {"color": shade, "hatch": hatch, "edgecolor": "white", "linewidth": 0.4}
        axes.barh(places, widths, left=left, height=0.7, **look)
        left = left + widths
    for place, total in enumerate(left):
        look = {"textcoords": "offset points", "va": "center", "fontsize": SMALL}
        axes.annotate(f"{total:.3g}", (total, place), (3, 0), **look)
    tidy(axes, f"{name} at the peak")
    axes.set_xlim(0, 1.12 * left.max())
    axes.grid(visible=False, axis="y")
