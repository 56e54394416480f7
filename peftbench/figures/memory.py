"""Where the memory of a training step goes: its parts at the peak, stacked per method."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from peftbench.analysis.frame import BLOCK, PARTS, arms
from peftbench.figures.sheet import (
    annotate,
    blocks,
    final,
    legend,
    not_drawn,
    row_axis,
    rows_height,
    sheet,
    short_names,
    tuning,
)
from peftbench.figures.style import SMALL, NothingToDraw, tidy

# Light and dark as well as blue and yellow, and no method's colour: cividis, which colour-blind
# people see as others do.
SHADES = ("#00224e", "#434e6c", "#7d7c78", "#bbaf71", "#fee838")
HATCHES = ("", "//////", "", "", "")  # gradients stand between two others that are as dark
UNITS = ((1024.0**3, "GiB"), (1024.0**2, "MiB"), (1024.0, "KiB"))


def memory(runs: pd.DataFrame) -> Figure:
    """What the live bytes at the peak of a training step are made of, a panel for each block of
    runs that may be compared.

    Arms of a method that need the same are one bar. Raises NothingToDraw if no run that is done has
    these numbers.
    """
    found = arms(final(runs))
    drawn = found.dropna(subset=PARTS).drop_duplicates([*BLOCK, "method", *PARTS])
    if drawn.empty:
        raise NothingToDraw(
            "there is nothing to draw: no run that is done has the parts of its memory"
        )
    parts = blocks(drawn)
    handles = [
        Patch(
            facecolor=shade,
            hatch=hatch,
            edgecolor="white",
            linewidth=0,
            label=part.removeprefix("peak."),
        )
        for shade, hatch, part in zip(SHADES, HATCHES, PARTS, strict=True)
    ]
    figure, panels = sheet(
        parts, [rows_height([short_names(members) for members in parts], 0.75), 0.25]
    )
    for (axes, below), members in zip(panels, parts, strict=True):
        _bars(axes, members)
        legend(below, handles)
    missing = found[found[PARTS].isna().any(axis=1)]
    several = bool((drawn["seeds"] > 1).any())
    notes = [
        "live tensor bytes at the peak of one training step on the largest batch"
        + (", means over seeds" if several else ""),
        tuning(runs),
        not_drawn(list(missing["label"]), list(missing["task"])),
    ]
    annotate(figure, parts, notes)
    return figure


def _bars(axes: Axes, members: pd.DataFrame) -> None:
    totals = members[PARTS].sum(axis=1)
    unit, name = next(pair for pair in UNITS if totals.max() >= pair[0] or pair == UNITS[-1])
    left = pd.Series(0.0, members.index)
    places = row_axis(axes, short_names(members), list(members["method"]))
    for part, shade, hatch in zip(PARTS, SHADES, HATCHES, strict=True):
        axes.barh(
            places,
            members[part] / unit,
            left=left,
            height=0.7,
            color=shade,
            hatch=hatch,
            edgecolor="white",
            linewidth=0.4,
        )
        left = left + members[part] / unit
    for place, total in zip(places, left, strict=True):
        axes.annotate(
            f"{total:.3g}",
            (total, place),
            (3, 0),
            textcoords="offset points",
            va="center",
            fontsize=SMALL,
        )
    tidy(axes, f"{name} at the peak")
    axes.set_xlim(0, 1.12 * left.max())
    axes.grid(visible=False, axis="y")
