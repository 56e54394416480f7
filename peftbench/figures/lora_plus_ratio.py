"""LoRA+ over its two learning rates: where the best ratio lies, and whether it beats LoRA by speed
or in the end."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from peftbench.analysis.blocks import Run, Value
from peftbench.analysis.estimates import BETTER
from peftbench.analysis.lora_plus_grid import (
    BestRatio,
    Grid,
    best_ratios,
    grids,
    steps_to_lora,
    tuned,
)
from peftbench.analysis.loss_curves import Loss
from peftbench.analysis.results import Results
from peftbench.figures.panels import Panels, line_of_means, not_drawn
from peftbench.figures.style import GREY, SMALL, axis_name, style, tidy
from peftbench.figures.ticks import only_ticks

# White is seen on dark and on bright cells.
OUTLINE = [withStroke(linewidth=2.4, foreground="black")]
FACES: dict[Loss, tuple[str, Any, str | None]] = {  # a loss in words, its line, its markers
    "train_loss": ("training", "-", None),
    "valid_loss": ("valid", (0, (2, 1)), "white"),
}


def lora_plus_ratio(results: Results) -> Figure:
    """From top to bottom, for each block with a grid on `valid`: the metric and the nll over (lr of
    A, ratio); the steps after which each ratio reaches LoRA's losses at half of its steps; the
    final metric of each ratio.

    Raises NothingToDraw if no block has a grid.
    """
    drawn = grids(results.tuning)
    missing = "no task has runs of lora+ on the valid split on a grid of learning rates and ratios"
    heat = 0.2 * max((len(grid.lrs) for grid in drawn), default=0) + 0.85
    panels = Panels([grid.block for grid in drawn], missing, [heat, heat, 1.8, 1.8])
    of_grids: list[str] = []
    for grid in drawn:
        metric, nll, steps, final = panels.axes[grid.block]
        _heat(metric, grid, "metric")
        _heat(nll, grid, "nll")
        _frames(nll, grid, best_ratios(grid))
        runs = tuned(grid)
        of_grids += [*_steps(steps, runs), _trials(grid, runs)]
        _points(final, {ratio: _metrics(of_ratio) for ratio, of_ratio in runs.items()})
        _ratio_axis(final, runs, axis_name("metric", grid.block.primary).replace(" (", "\n("))
    notes = [
        "means over seeds; x: diverged or ended early; framed column: ratio 1 is LoRA",
        "framed in white: the best ratio for its learning rate, "
        "white line: 95 % interval over resampled seeds",
        "lower panels: each ratio at its learning rate with the lowest nll, "
        "bars from smallest to largest seed, dashed: LoRA",
        *dict.fromkeys(of_grids),
        ""
        if all(1 in grid.ratios for grid in drawn)
        else not_drawn(["lora (no run at ratio 1 on the grid)"]),
    ]
    return panels.annotate(notes)


def _heat(axes: Axes, grid: Grid, value: Value) -> None:
    """Cells with their numbers, brighter is better, the highest learning rate on top."""
    means = [grid.means(ratio, value) for ratio in grid.ratios]
    numbers = np.array([[of_ratio.get(lr, math.nan) for of_ratio in means] for lr in grid.lrs])
    goodness = np.ma.masked_invalid(BETTER[value] * numbers)  # (lrs, ratios)
    finite = goodness.compressed()
    # The worst tenth may be far off.
    low, high = np.quantile(finite, [0.1, 1.0]) if finite.size else (0.0, 1.0)
    palette = colormaps["cividis"].with_extremes(bad="white")
    shades = palette(Normalize(low, high, clip=True)(goodness))
    axes.imshow(shades, aspect="auto", origin="lower")
    for (row, column), number in np.ndenumerate(numbers):
        text = "" if math.isnan(number) else "x" if math.isinf(number) else f"{number:.3f}"
        dark = shades[row, column][:3].mean() < 0.5
        look = {"ha": "center", "va": "center", "fontsize": SMALL - 1.5}
        axes.text(column, row, text, color="white" if dark else "black", **look)
    names = ["1 (LoRA)" if ratio == 1 else f"{ratio:g}" for ratio in grid.ratios]
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(grid.lrs)), [f"{lr:.3g}" for lr in grid.lrs])
    name = axis_name(value, grid.block.primary)
    tidy(axes, f"ratio of the learning rates, B to A\n{name}", "lr of A")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    if 1 in grid.ratios:
        corner = (grid.ratios.index(1) - 0.5, -0.5)
        look = {"fill": False, "edgecolor": style("lora")[0], "linewidth": 1.5, "clip_on": False}
        axes.add_patch(Rectangle(corner, 1, len(grid.lrs), **look))


def _frames(axes: Axes, grid: Grid, ratios: Iterable[BestRatio]) -> None:
    column = grid.ratios.index
    for best in ratios:
        row = grid.lrs.index(best.lr)
        look: dict[str, Any] = {"linewidth": 1.2, "path_effects": OUTLINE}
        corner = (column(best.ratio) - 0.44, row - 0.4)
        axes.add_patch(Rectangle(corner, 0.88, 0.8, edgecolor="white", fill=False, **look))
        if best.interval:
            low, high = best.interval
            ends = [column(low) - 0.3, column(high) + 0.3]
            axes.plot(ends, [row - 0.3] * 2, color="white", **look)


def _steps(axes: Axes, runs: Mapping[float, Sequence[Run]]) -> list[str]:
    """Draw the steps to LoRA's losses at half of its steps; returns notes."""
    notes: list[str] = []
    count = sum(map(len, runs.values()))
    for loss, (name, dash, face) in FACES.items():
        by_ratio = steps_to_lora(runs, loss)
        reached = list(chain.from_iterable(by_ratio.values()))
        if not reached:
            notes.append(f"no {name} losses of LoRA to reach")
            continue
        steps = {ratio: [one.steps for one in of_ratio] for ratio, of_ratio in by_ratio.items()}
        _points(axes, steps, face, linestyle=dash, label=f"{name} loss")
        never = sum(one.never for one in reached)
        if never:
            notes.append(
                f"{never} of {len(reached)} runs never reach LoRA's {name} loss at half of its "
                "steps: drawn one step after the last"
            )
        unknown = count - len(reached)
        if unknown:
            notes.append(f"{unknown} of {count} runs have no {name} loss of LoRA to reach")
    if axes.containers:
        axes.legend(fontsize=SMALL - 1, edgecolor="none", framealpha=0.8)
    else:
        look = {"ha": "center", "va": "center", "fontsize": SMALL, "color": GREY}
        axes.text(0.5, 0.5, "unknown", transform=axes.transAxes, **look)
        axes.set_yticks([])
    _ratio_axis(axes, runs, "steps to LoRA's\nloss at half-time")
    return notes


def _metrics(runs: Iterable[Run]) -> list[float]:
    return [value for run in runs if (value := run.value("metric")) is not None]


def _trials(grid: Grid, ratios: Iterable[float]) -> str:
    trials = sorted({len(grid.means(ratio, "nll")) for ratio in ratios})
    if not trials:
        return "no ratio has a learning rate at which all runs are done"
    if len(trials) > 1:
        return f"unequal trials: {trials[0]} to {trials[-1]} learning rates for a ratio"
    return f"{trials[0]} learning rate{'s' if trials[0] > 1 else ''} for each ratio"


def _points(
    axes: Axes, values: Mapping[float, Sequence[float]], face: str | None = None, **look: Any
) -> None:
    """Means over seeds by ratio, with bars, and a dashed line at LoRA's; face: of the markers, None
    for the method's colour."""
    by_ratio = {ratio: numbers for ratio, numbers in values.items() if numbers}
    colour, marker = style("lora+")
    look |= {"color": colour, "marker": marker, "markerfacecolor": face or colour, "markersize": 5}
    line_of_means(axes, by_ratio, linewidth=1.1, **look)
    if 1 in by_ratio:
        mean = fmean(by_ratio[1])
        colour, marker = style("lora")
        look = {"color": colour, "markerfacecolor": face or colour, "markersize": 5.5}
        axes.plot(1, mean, marker, zorder=4, **look)
        axes.axhline(mean, color=colour, linestyle="--", linewidth=0.9, zorder=1)


def _ratio_axis(axes: Axes, ratios: Iterable[float], name: str) -> None:
    axes.set_xscale("log", base=2)
    only_ticks(axes, [*ratios], "{:g}".format)
    tidy(axes, "ratio of the learning rates, B to A", name)
    axes.margins(y=0.12)
