"""Frames as figures: pure functions that return a matplotlib Figure, and one that saves it so that equal figures are equal files."""

import itertools
import math
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from peftbench.errors import InputError
from peftbench.frame import BLOCK, METHODS, arms
from peftbench.tables import described, human, size

X = Literal["trained_params", "peak_bytes"]
Y = Literal["metric", "nll"]
XS: tuple[X, ...] = get_args(X)
YS: tuple[Y, ...] = get_args(Y)

# Okabe and Ito's palette, which colour-blind people can tell apart, and a marker for each, so that no one needs the colour.
COLOURS: dict[str, str] = dict(zip(METHODS, ("#000000", "#7f7f7f", "#0072b2", "#56b4e9", "#009e73", "#d55e00", "#e69f00"), strict=True))
MARKERS: dict[str, str] = dict(zip(METHODS, ("s", "X", "o", "^", "D", "v", "P"), strict=True))
OTHER_COLOUR, OTHER_MARKER = "#cc79a7", "*"
NAMES = {"trained_params": "trained parameters", "peak_bytes": "peak memory of a training step", "nll": "nll per token"}
TITLE = 42  # characters of a title's line: a longer one would take its width from the axes
PANEL = (3.5, 2.9)  # inches, a column of a paper
MOST_LABELS = 12  # in a panel with more arms only the best of each method and those on the front are named
DISTANCES = (5, 8, 12, 18, 26, 36, 48)  # of labels from their points, in typographic points
DIRECTIONS = np.array(
    [(1, 0), (-1, 0), (0, 1), (0, -1), *itertools.product((0.7, -0.7), (0.7, -0.7)), *itertools.product((0.9, -0.9), (0.4, -0.4))]
)
SMALL, GREY = 7, "#555555"


def pareto_front(x: Sequence[float], y: Sequence[float]) -> list[int]:
    """Which points no other point beats, where a small x and a large y are good: their indices by x. A point beats another if it is
    as good in both and better in one, so equal points stand or fall together; a point with a NaN is never among them."""
    order = sorted((i for i in range(len(x)) if not (math.isnan(x[i]) or math.isnan(y[i]))), key=lambda i: (x[i], -y[i]))
    front: list[int] = []
    for i in order:
        if not front or y[i] > y[front[-1]] or (x[i], y[i]) == (x[front[-1]], y[front[-1]]):
            front.append(i)
    return front


def pareto(runs: pd.DataFrame, x: X, y: Y = "metric") -> Figure:
    """What each method costs against what it reaches, a panel for each block of runs that may be compared.

    The step line is the best that can be had for at most so much; bars are standard deviations over seeds; the frozen model stands
    at 0, on the linear beginning of the axis. Raises InputError if no run has both values.
    """
    found = arms(runs)
    drawn = found.dropna(subset=[x, y])
    if drawn.empty:
        raise InputError(f"there is nothing to draw: no run that is done has both {x} and {y}")
    blocks = [members for _, members in drawn.groupby(BLOCK, sort=False)]
    columns = min(len(blocks), 2)
    rows = math.ceil(len(blocks) / columns)
    figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * rows + 0.3), layout="constrained", dpi=200)
    FigureCanvasAgg(figure)  # measures text; no pyplot, no window
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    abouts = [dict(members[BLOCK].iloc[0]) for members in blocks]
    differing = {name for name in BLOCK if len({about[name] for about in abouts}) > 1}
    for axes, members, about in zip(panels, blocks, abouts, strict=False):
        _draw(axes, members, x, y)
        title = ", ".join([about["task"], *described(about, differing)])
        axes.set_title(textwrap.fill(title, TITLE), fontsize=8, loc="left")
    for axes in panels[len(blocks) :]:
        axes.remove()
    notes = [*described(abouts[0], {*BLOCK} - differing), "line: the best that costs at most so much"]
    if any(drawn[f"{y}.std"].notna()):
        notes.append("bars: standard deviation over seeds")
    if 0 in set(drawn[x]):
        notes.append("axis linear up to the mark after 0")
    missing = found[found[[x, y]].isna().any(axis=1)]
    if not missing.empty:
        notes.append("not drawn: " + ", ".join(f"{label} ({task})" for label, task in zip(missing["label"], missing["task"], strict=True)))
    figure.supxlabel(textwrap.fill("; ".join(notes), 78 * columns), fontsize=6, color=GREY, x=0.01, ha="left")
    figure.draw_without_rendering()  # from here on every position is known
    for axes, members in zip(panels, blocks, strict=False):
        _name(axes, members, x, y)
    return figure


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write `stem`.pdf and `stem`.png, without anything that would differ between two runs, and return their paths."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    pdf, png = stem.with_name(f"{stem.name}.pdf"), stem.with_name(f"{stem.name}.png")
    with matplotlib.rc_context({"pdf.fonttype": 42}):  # journals refuse the default, Type 3
        figure.savefig(pdf, metadata={"CreationDate": None})
    figure.savefig(png, metadata={"Software": None})
    return [pdf, png]


def _style(method: str) -> tuple[str, str]:
    """A method's colour and marker, the same in every figure."""
    return COLOURS.get(method, OTHER_COLOUR), MARKERS.get(method, OTHER_MARKER)


def _front(members: pd.DataFrame, x: X, y: Y) -> list[int]:
    sign = -1 if y == "nll" else 1
    return pareto_front(members[x].tolist(), (sign * members[y]).tolist())


def _draw(axes: Axes, members: pd.DataFrame, x: X, y: Y) -> None:
    """The axes of a panel, its points and its front."""
    xs, ys = members[x].to_numpy(), members[y].to_numpy()
    for method, a, b, spread in zip(members["method"], xs, ys, members[f"{y}.std"].fillna(0), strict=True):
        colour, marker = _style(method)
        axes.errorbar(a, b, spread or None, color=colour, elinewidth=0.8, zorder=2)
        axes.plot(a, b, marker, color=colour, markersize=5, markeredgecolor="white", markeredgewidth=0.5, zorder=3)
    _scale(axes, xs, x)
    front = _front(members, x, y)
    right = axes.get_xlim()[1]
    axes.step([*xs[front], right], [*ys[front], ys[front[-1]]], where="post", color="#999999", linewidth=1, zorder=1)
    axes.set_xlim(right=right)
    axes.margins(y=0.12)
    primary = str(members["primary"].iloc[0]).replace("_", " ")
    axes.set_xlabel(NAMES[x], fontsize=SMALL + 1)
    axes.set_ylabel(f"{NAMES['nll']} (lower is better)" if y == "nll" else f"{primary} (higher is better)", fontsize=SMALL + 1)
    axes.tick_params(labelsize=SMALL)
    axes.grid(color="#e5e5e5", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _scale(axes: Axes, values: np.ndarray, x: X) -> None:
    """A logarithmic axis for positive values; if some are 0, it begins with a short linear part that holds them."""
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
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: re.sub(r"\.0+ ", " ", text(value))))


def round_ticks(low: float, high: float, base: int) -> list[float]:
    """Round numbers between two positive ones, three to six of them unless the range is too narrow for three."""
    powers = range(math.floor(math.log(low, base)), math.ceil(math.log(high, base)) + 1)
    steps: list[tuple[float, ...]] = [(1.0,), (1.0, 1.5), (1.0, 1.25, 1.5, 1.75)] if base == 2 else [(1.0,), (1.0, 3.0), (1.0, 2.0, 5.0)]
    ticks: list[float] = []
    for parts in steps:
        ticks = [part * float(base) ** power for power in powers for part in parts if low <= part * float(base) ** power <= high]
        if len(ticks) >= 3:
            break
    return ticks[:: math.ceil(len(ticks) / 6)] if ticks else []


def _name(axes: Axes, members: pd.DataFrame, x: X, y: Y) -> None:
    """Write labels beside the points, where they hide least: no other label, no point, no line. A thin line leads to the point."""
    chosen = list(range(len(members)))
    if len(members) > MOST_LABELS:
        best = members.reset_index(drop=True).groupby("method")[y]
        chosen = sorted({*_front(members, x, y), *(best.idxmin() if y == "nll" else best.idxmax())})
    figure = axes.get_figure(root=True)
    assert figure is not None
    point = figure.dpi / 72  # pixels
    values = members[[x, y]].to_numpy()
    places = axes.transData.transform(values)
    tops = axes.transData.transform(values + np.c_[np.zeros(len(members)), members[f"{y}.std"].fillna(0)])
    bars = np.c_[np.full(len(places), point), np.abs(tops - places)[:, 1]]
    obstacles = np.concatenate([_around(places, np.full((1, 2), 4 * point)), _around(places, bars)])
    lines = _line_boxes(places[_front(members, x, y)], axes.bbox.x1, point)
    room = np.array([[axes.bbox.x0 + 3 * point, axes.bbox.y0 + 3 * point, axes.bbox.x1, axes.bbox.y1]])
    texts = {}
    for i in chosen:
        ink = tuple(0.75 * part for part in to_rgb(_style(members["method"].iloc[i])[0]))  # the palest colours are hard to read as text
        texts[i] = axes.text(0, 0, members["label"].iloc[i], fontsize=SMALL, color=ink, in_layout=False)
    sizes = {i: text.get_window_extent().size for i, text in texts.items()}
    boxes: dict[int, np.ndarray] = {}
    for i in chosen * 4:  # again and again: a label gives way to those placed after it
        distances, found = _candidates(places[i], sizes[i], point)
        others = np.concatenate([obstacles, *([box] for j, box in boxes.items() if j != i)])
        hidden = overlaps(found, others).sum(1) + 0.3 * overlaps(found, lines).sum(1) - 3 * overlaps(found, room).sum(1)
        boxes[i] = found[np.argmin(hidden + distances)]
    for i, text in texts.items():
        low, high = boxes[i][:2], boxes[i][2:]
        left, bottom = axes.transData.inverted().transform(low)
        text.set_position((left, bottom))
        end = np.clip(places[i], low, high)  # the box's nearest point
        if np.hypot(*(end - places[i])) > 6 * point:
            (a, b), (c, d) = values[i], axes.transData.inverted().transform(end)
            axes.plot([a, c], [b, d], color=text.get_color(), linewidth=0.5, zorder=1.5, scalex=False, scaley=False)


# Boxes are rows of left, bottom, right, top, in pixels.


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The area that each of n boxes shares with each of m others: (n, m), in square pixels."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])  # (n, m, 2)
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])  # (n, m, 2)
    return np.clip(high - low, 0, None).prod(axis=2)


def _around(middles: np.ndarray, halves: np.ndarray) -> np.ndarray:
    return np.concatenate(np.broadcast_arrays(middles - halves, middles + halves), axis=1)


def _candidates(place: np.ndarray, size: np.ndarray, point: float) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of a size around a place, nearest first: their distances (n,) and the boxes (n, 4)."""
    distances, directions = np.repeat(DISTANCES, len(DIRECTIONS)) * point, np.tile(DIRECTIONS, (len(DISTANCES), 1))
    middles = place + distances[:, None] * directions + size / 2 * np.sign(directions)
    return distances, _around(middles, size[None] / 2)


def _line_boxes(corners: np.ndarray, right: float, point: float) -> np.ndarray:
    """The front's step line as thin boxes, from its corners to the panel's right side."""
    boxes: list[tuple[float, float, float, float]] = []
    for (x0, y0), (x1, y1) in itertools.pairwise([*corners, (right, corners[-1][1])]):
        boxes.append((x0, y0 - point, x1, y0 + point))
        boxes.append((x1 - point, min(y0, y1), x1 + point, max(y0, y1)))
    return np.array(boxes)
