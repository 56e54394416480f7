"""What a step takes against the size of the model, by forecast: a line for each method."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from peftbench.analysis.blocks import METHOD_ORDER
from peftbench.at_scale import AtScale
from peftbench.figures.panels import NothingToDraw
from peftbench.figures.style import GREY, SMALL, style, tidy

GIB = 2**30
GPUS = (16, 24, 40, 80)  # GiB of memory that people have


def memory_at_scale(rows: Sequence[AtScale]) -> Figure:
    """Peak bytes against parameters, both logarithmic, with lines at what GPUs have. Of the rows
    those of our implementation at the commonest step and owner of models. Raises NothingToDraw
    where there are none of two models."""
    plain = [row for row in rows if row.implementation == "ours" and not row.args]
    steps = [_step(row) for row in plain]
    common = max(steps, key=steps.count, default=None)
    drawn = [row for row in plain if _step(row) == common]
    if len({row.model for row in drawn}) < 2:
        raise NothingToDraw("no two models with a forecast of one step")
    figure = Figure(figsize=(5.2, 3.8), layout="constrained")
    axes = figure.subplots()
    for names, points in _lines(drawn).items():
        colour, marker = style(names[0])
        xs, ys = zip(*((n / 1e9, peak / GIB) for n, peak in points), strict=True)
        axes.plot(xs, ys, color=colour, marker=marker, markersize=4, label=", ".join(names))
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
    left, right = axes.get_xlim()
    for gib in GPUS:
        axes.axhline(gib, color=GREY, linewidth=0.7, linestyle=(0, (2, 2)), zorder=0)
        look: dict[str, Any] = {
            "textcoords": "offset points",
            "ha": "right",
            "va": "bottom",
            "color": GREY,
        }
        axes.annotate(f"{gib} GiB", (right, gib), (-2, 1), fontsize=SMALL - 1, **look)
    axes.set_xlim(left, right)
    tidy(axes, "parameters of the model, billions", "GiB at the peak of a step, by forecast")
    axes.legend(fontsize=SMALL, frameon=False)
    first = drawn[0]
    base = "" if first.base == "plain" else f", {first.base} base"
    about = f"{first.batch} x {first.length} tokens, {first.precision}{base}; live tensors"
    axes.set_title(f"{about}, from shapes alone: nothing was run", fontsize=SMALL)
    return figure


def _step(row: AtScale) -> tuple[object, ...]:
    """What the points of a line have in common, the family of the models by their owner."""
    return row.model.rpartition("/")[0], row.precision, row.base, row.batch, row.length


def _lines(rows: Sequence[AtScale]) -> Mapping[tuple[str, ...], list[tuple[int, int]]]:
    """(parameters, bytes) along the line of each method, methods of one line together."""
    points: dict[str, list[tuple[int, int]]] = {}
    for row in sorted(rows, key=lambda row: row.total_params):
        points.setdefault(row.method, []).append((row.total_params, row.peak_bytes))
    lines: dict[tuple[str, ...], list[tuple[int, int]]] = {}
    for method in sorted(points, key=lambda m: [*METHOD_ORDER, m].index(m)):
        alike = next((names for names, line in lines.items() if line == points[method]), ())
        line = lines.pop(alike, points[method])
        lines[(*alike, method)] = line
    return lines
