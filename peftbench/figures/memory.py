"""Where the memory of a training step goes: its parts at the peak, stacked per method."""

from dataclasses import dataclass

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


@dataclass(frozen=True)
class Bar:
    """The bytes of each part, for the arms of a method that need the same."""

    name: str
    method: str
    parts: tuple[float, ...]  # in the order of PARTS


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
    handles = [
        Patch(facecolor=shade, hatch=hatch, edgecolor="white", linewidth=0, label=_part(name))
        for shade, hatch, name in zip(SHADES, HATCHES, PARTS, strict=True)
    ]
    names = [[bar.name for bar in bars] for bars in drawn.values()]
    panels = Panels.of(drawn, [rows_height(names, 0.75), 0.25])
    for (axes, below), bars in zip(panels.axes, drawn.values(), strict=True):
        _draw(axes, bars)
        legend(below, handles)
    shown = {arm for block in results.costs for arm in block.arms if _parts(arm) is not None}
    several = any(len(arm.done) > 1 for block in drawn for arm in block.arms)
    notes = [
        "live tensor bytes at the peak of one training step on the largest batch"
        + (", means over seeds" if several else ""),
        trials_note(results),
        missing(results.costs, shown),
    ]
    return panels.annotate(notes)


def _part(name: str) -> str:
    return name.removeprefix("peak.")


def _parts(arm: Arm) -> tuple[float, ...] | None:
    values = [value for name in PARTS if (value := mean(arm, name)) is not None]
    return tuple(values) if len(values) == len(PARTS) else None


def _bars(block: Block) -> list[Bar]:
    """A bar is named by its method where it stands for all arms of it, else by the first."""
    alike = grouped(
        [arm for arm in block.arms if _parts(arm) is not None],
        lambda arm: (arm.method, _parts(arm) or ()),
    )
    of_method = grouped(alike, lambda key: key[0])
    bars: list[Bar] = []
    for (method, parts), arms in alike.items():
        more = f" and {len(arms) - 1} more" if len(arms) > 1 else ""
        name = f"{arms[0].label}{more}" if len(of_method[method]) > 1 else method
        bars.append(Bar(name, method, parts))
    return bars


def _draw(axes: Axes, bars: list[Bar]) -> None:
    parts = np.array([bar.parts for bar in bars])  # (bars, parts)
    largest = parts.sum(1).max()
    unit, name = next(pair for pair in UNITS if largest >= pair[0] or pair == UNITS[-1])
    parts = parts / unit
    left = np.zeros(len(bars))
    places = row_axis(axes, [bar.name for bar in bars], [bar.method for bar in bars])
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
