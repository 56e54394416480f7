"""LoRA+ over its two learning rates: where the best ratio lies, and whether it beats LoRA by speed
or in the end."""

import math

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, NullLocator

from peftbench.analysis.lora_plus_grid import best_ratio, grids, table, to_lora, tuned
from peftbench.figures.sheet import annotate, not_drawn, sheet
from peftbench.figures.style import GREY, SMALL, NothingToDraw, axis_name, style, tidy

OUTLINE = [
    withStroke(linewidth=2.4, foreground="black")
]  # white is seen on dark and on bright cells
LOSSES = {"train_steps": "training", "valid_steps": "valid"}


def lora_plus_ratio(runs: pd.DataFrame, points: pd.DataFrame, rng: np.random.Generator) -> Figure:
    """From top to bottom, for each block with a grid on `valid`: the metric and the nll over (lr of
    A, ratio); the steps after which each ratio reaches LoRA's final losses; the final metric of
    each ratio. points: of curves.curves; rng: for intervals.

    Raises NothingToDraw if no block has a grid.
    """
    parts = grids(runs)
    if not parts:
        raise NothingToDraw(
            "there is nothing to draw: no task has runs of lora+ on the valid split on a grid of learning rates and ratios"
        )
    rows = max(len(set(grid["lr"])) for grid in parts)
    heat = 0.2 * rows + 0.85
    figure, panels = sheet(parts, [heat, heat, 1.8, 1.8])
    notes: list[str] = []
    for panel, grid in zip(panels, parts, strict=True):
        primary = str(grid["primary"].iloc[0])
        _heat(panel[0], table(grid, "metric"), False, axis_name("metric", primary))
        _heat(panel[1], table(grid, "nll"), True, axis_name("nll", primary))
        _best(panel[1], table(grid, "nll"), best_ratio(grid, rng))
        window = max(1, int(grid["train.steps"].iloc[0]) // 10) // 2 * 2 + 1
        ratios = to_lora(tuned(grid), points, window)
        notes += _ratios(panel[2:], ratios, axis_name("metric", primary))
    notes = [
        "means over seeds; x: diverged or ended early; framed column: ratio 1 is LoRA",
        "framed in white: the best ratio for its learning rate, white line: 95 % interval over resampled seeds",
        "lower panels: each ratio at its learning rate with the lowest nll, bars from smallest to largest seed, dashed: LoRA",
        *dict.fromkeys(notes),
        ""
        if all((grid["ratio"] == 1).any() for grid in parts)
        else not_drawn(["lora"], ["no run at ratio 1 on the grid"]),
    ]
    annotate(figure, parts, notes)
    return figure


def _heat(axes: Axes, values: pd.DataFrame, lower: bool, name: str) -> None:
    """Cells with their numbers, brighter is better, the highest learning rate on top."""
    numbers = values.to_numpy(float)
    known = numbers[np.isfinite(numbers)]
    signed = -numbers if lower else numbers
    low, high = (
        np.quantile(-known if lower else known, [0.1, 1.0]) if known.size else (0.0, 1.0)
    )  # the worst tenth may be far off
    shades = colormaps["cividis"](
        Normalize(low, high, clip=True)(np.where(np.isfinite(signed), signed, low))
    )
    shades[~np.isfinite(numbers)] = (1, 1, 1, 1)
    axes.imshow(shades, aspect="auto", origin="lower")
    for (row, column), number in np.ndenumerate(numbers):
        text = "" if math.isnan(number) else "x" if math.isinf(number) else f"{number:.3f}"
        dark = math.isfinite(number) and shades[row, column][:3].mean() < 0.5
        axes.text(
            column,
            row,
            text,
            ha="center",
            va="center",
            fontsize=SMALL - 1.5,
            color="white" if dark else "black",
        )
    names = [f"{ratio:g}" for ratio in values.columns]
    axes.set_xticks(
        range(len(names)),
        [
            "1 (LoRA)" if ratio == 1 else text
            for ratio, text in zip(values.columns, names, strict=True)
        ],
    )
    axes.set_yticks(range(len(values.index)), [f"{lr:.3g}" for lr in values.index])
    tidy(axes, f"ratio of the learning rates, B to A\n{name}", "lr of A")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    if 1 in values.columns:
        place = list(values.columns).index(1)
        axes.add_patch(
            Rectangle(
                (place - 0.5, -0.5),
                1,
                len(values),
                fill=False,
                edgecolor=style("lora")[0],
                linewidth=1.5,
                clip_on=False,
            )
        )


def _best(axes: Axes, values: pd.DataFrame, best: pd.DataFrame) -> None:
    columns, rows = list(values.columns), list(values.index)
    for lr, ratio, low, high, _ in best.itertuples(index=False, name=None):
        row = rows.index(lr)
        look = {"edgecolor": "white", "linewidth": 1.2, "fill": False, "path_effects": OUTLINE}
        axes.add_patch(Rectangle((columns.index(ratio) - 0.44, row - 0.4), 0.88, 0.8, **look))
        if math.isfinite(low):
            axes.plot(
                [columns.index(low) - 0.3, columns.index(high) + 0.3],
                [row - 0.3] * 2,
                color="white",
                linewidth=1.2,
                path_effects=OUTLINE,
            )


def _ratios(panel: list[Axes], runs: pd.DataFrame, name: str) -> list[str]:
    """Steps and metric against the ratio; returns notes."""
    notes: list[str] = []
    colour, marker = style("lora+")
    lora = style("lora")
    ratios = sorted(set(runs["ratio"]))
    looks = {"train_steps": ("-", colour), "valid_steps": ((0, (2, 1)), "white")}
    for column, (dash, face) in looks.items():
        shown = runs.dropna(subset=[column])
        if shown.empty:
            notes.append(
                f"no {LOSSES[column]} losses of LoRA to reach"
                if column == "train_steps"
                else "no valid losses were taken while training"
            )
            continue
        _points(panel[0], shown, column, colour, marker, dash, face, f"{LOSSES[column]} loss")
        count = len(runs.dropna(subset=["metric"])) - len(shown)
        if count:
            notes.append(
                f"{count} of {len(runs)} runs never reach LoRA's final {LOSSES[column]} loss and are in no mean"
            )
        own = shown.query("ratio == 1")[column].to_numpy(float)
        if len(own):
            panel[0].axhline(
                float(own.mean()), color=lora[0], linestyle="--", linewidth=0.9, zorder=1
            )
    if panel[0].containers:
        panel[0].legend(fontsize=SMALL - 1, frameon=False)
    else:
        panel[0].text(
            0.5,
            0.5,
            "unknown",
            transform=panel[0].transAxes,
            ha="center",
            va="center",
            fontsize=SMALL,
            color=GREY,
        )
        panel[0].set_yticks([])
    _points(panel[1], runs, "metric", colour, marker, "-", colour, "")
    own = runs.query("ratio == 1")["metric"].to_numpy(float)
    if len(own):
        panel[1].axhline(float(own.mean()), color=lora[0], linestyle="--", linewidth=0.9, zorder=1)
    for axes, label in zip(
        panel, ("steps to LoRA's\nfinal loss", name.replace(" (", "\n(")), strict=True
    ):
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(ratios))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(ratios, [f"{ratio:g}" for ratio in ratios])
        tidy(axes, "ratio of the learning rates, B to A", label)
        axes.margins(y=0.12)
    trials = sorted(set(runs["trials"]))
    one = f"{trials[0]} learning rate{'s' if trials[0] > 1 else ''} for each ratio"
    return [
        *notes,
        one
        if len(trials) == 1
        else f"unequal trials: {trials[0]} to {trials[-1]} learning rates for a ratio",
    ]


def _points(
    axes: Axes,
    runs: pd.DataFrame,
    column: str,
    colour: str,
    marker: str,
    dash: object,
    face: str,
    label: str,
) -> None:
    ratios = sorted(set(runs["ratio"]))
    values = [runs.loc[runs["ratio"] == ratio, column].to_numpy(float) for ratio in ratios]
    means = np.array([each.mean() for each in values])
    bars = [means - [each.min() for each in values], [each.max() for each in values] - means]
    look = {
        "color": colour,
        "marker": marker,
        "markerfacecolor": face,
        "markersize": 5,
        "linestyle": dash,
    }
    axes.errorbar(ratios, means, bars, linewidth=1.1, elinewidth=0.8, label=label, **look)
    if 1 in ratios:
        lora, mark = style("lora")
        face = face if face == "white" else lora
        axes.plot(
            1,
            means[ratios.index(1)],
            mark,
            color=lora,
            markerfacecolor=face,
            markersize=5.5,
            zorder=4,
        )
