"""Cost against quality: what can be had for at most so many parameters or bytes."""

import math
import re
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from peftbench.analysis.frame import arms
from peftbench.figures.labels import label
from peftbench.figures.sheet import annotate, blocks, final, not_drawn, sheet, tuning
from peftbench.figures.style import POINT, NothingToDraw, axis_name, ink, style, tidy
from peftbench.tables import human, size

X = Literal["trained_params", "peak_bytes"]
Y = Literal["metric", "nll"]
XS: tuple[X, ...] = get_args(X)
YS: tuple[Y, ...] = get_args(Y)

NAMES = {"trained_params": "trained parameters", "peak_bytes": "peak memory of a training step"}
# in a panel with more arms only the best of each method and those on the front are named
MOST_LABELS = 12


def pareto_front(x: Sequence[float], y: Sequence[float]) -> list[int]:
    """Which points no other point beats, where a small x and a large y are good: their indices by
    x. A point beats another if it is as good in both and better in one, so equal points stand or
    fall together; a point with a NaN is never among them."""
    order = sorted(
        (i for i in range(len(x)) if not (math.isnan(x[i]) or math.isnan(y[i]))),
        key=lambda i: (x[i], -y[i]),
    )
    front: list[int] = []
    for i in order:
        if not front or y[i] > y[front[-1]] or (x[i], y[i]) == (x[front[-1]], y[front[-1]]):
            front.append(i)
    return front


def pareto(runs: pd.DataFrame, x: X, y: Y = "metric") -> Figure:
    """What each method costs against what it reaches, a panel for each block of runs that may be
    compared.

    The step line is the best that can be had for at most so much; bars are standard deviations over
    seeds; the frozen model stands at 0, on the linear beginning of the axis. Raises NothingToDraw
    if no run has both values.
    """
    found = arms(final(runs))
    drawn = found.dropna(subset=[x, y])
    if drawn.empty:
        raise NothingToDraw(f"there is nothing to draw: no run that is done has both {x} and {y}")
    parts = blocks(drawn)
    figure, panels = sheet(parts)
    for (axes,), members in zip(panels, parts, strict=True):
        _draw(axes, members, x, y)
    missing = found[found[[x, y]].isna().any(axis=1)]
    notes = [
        "line: the best that costs at most so much",
        "bars: standard deviation over seeds" if any(drawn[f"{y}.std"].notna()) else "",
        "axis linear up to the mark after 0" if 0 in set(drawn[x]) else "",
        tuning(runs),
        not_drawn(list(missing["label"]), list(missing["task"])),
    ]
    annotate(figure, parts, notes)
    figure.draw_without_rendering()  # from here on every position is known
    for (axes,), members in zip(panels, parts, strict=True):
        _name(axes, members, x, y)
    return figure


def _front(members: pd.DataFrame, x: X, y: Y) -> list[int]:
    sign = -1 if y == "nll" else 1
    return pareto_front(members[x].tolist(), (sign * members[y]).tolist())


def _draw(axes: Axes, members: pd.DataFrame, x: X, y: Y) -> None:
    """The axes of a panel, its points and its front."""
    xs, ys = members[x].to_numpy(), members[y].to_numpy()
    for method, a, b, spread in zip(
        members["method"], xs, ys, members[f"{y}.std"].fillna(0), strict=True
    ):
        colour, marker = style(method)
        axes.errorbar(a, b, spread or None, color=colour, elinewidth=0.8, zorder=2)
        axes.plot(a, b, marker, color=colour, zorder=3, **POINT)
    _scale(axes, xs, x)
    front = _front(members, x, y)
    right = axes.get_xlim()[1]
    axes.step(
        [*xs[front], right],
        [*ys[front], ys[front[-1]]],
        where="post",
        color="#999999",
        linewidth=1,
        zorder=1,
    )
    axes.set_xlim(right=right)
    axes.margins(y=0.12)
    tidy(axes, NAMES[x], axis_name(y, str(members["primary"].iloc[0])))


def _scale(axes: Axes, values: np.ndarray, x: X) -> None:
    """A logarithmic axis for positive values; if some are 0, it begins with a short linear part
    that holds them."""
    positive = values[values > 0]
    low, high = (positive.min(), positive.max()) if positive.size else (1.0, 1.0)
    base = 2 if x == "peak_bytes" else 10
    room = (high / low) ** 0.08 * 1.1
    ticks = round_ticks(low / room, high * room, base)
    if positive.size < values.size:
        linear = float(base) ** math.floor(math.log(low / 1.0001, base))
        axes.set_xscale("symlog", base=base, linthresh=linear, linscale=0.6)
        axes.set_xlim(-0.6 * linear, high * room)
        ticks = [0.0, linear, *(tick for tick in ticks if tick > linear)]
    else:
        axes.set_xscale("log", base=base)
        axes.set_xlim(low / room, high * room)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    text = size if x == "peak_bytes" else human
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: re.sub(r"\.0+ ", " ", text(value)))
    )


def round_ticks(low: float, high: float, base: int) -> list[float]:
    """Round numbers between two positive ones, three to six of them unless the range is too narrow
    for three."""
    powers = range(math.floor(math.log(low, base)), math.ceil(math.log(high, base)) + 1)
    steps: list[tuple[float, ...]] = (
        [(1.0,), (1.0, 1.5), (1.0, 1.25, 1.5, 1.75)]
        if base == 2
        else [(1.0,), (1.0, 3.0), (1.0, 2.0, 5.0)]
    )
    ticks: list[float] = []
    for parts in steps:
        ticks = [
            part * float(base) ** power
            for power in powers
            for part in parts
            if low <= part * float(base) ** power <= high
        ]
        if len(ticks) >= 3:
            break
    return ticks[:: math.ceil(len(ticks) / 6)] if ticks else []


def _name(axes: Axes, members: pd.DataFrame, x: X, y: Y) -> None:
    """Label the points; in a panel with many arms only the best of each method and those on the
    front."""
    front, chosen = _front(members, x, y), list(range(len(members)))
    if len(members) > MOST_LABELS:
        best = members.reset_index(drop=True).groupby("method")[y]
        chosen = sorted({*front, *(best.idxmin() if y == "nll" else best.idxmax())})
    spreads = members[f"{y}.std"].fillna(0).to_numpy()
    names = {i: str(members["label"].iloc[i]) for i in chosen}
    label(
        axes,
        members[[x, y]].to_numpy(),
        spreads,
        names,
        [ink(method) for method in members["method"]],
        front,
    )
