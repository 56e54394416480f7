"""A sheet of panels, one for each block of runs that may be compared: layout, titles, the notes
below, and short names of arms."""

import json
import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from peftbench.analysis.frame import BLOCK, TRAIN, arms
from peftbench.analysis.loss_curves import RUN
from peftbench.figures.style import GREY, PANEL, SMALL, ink
from peftbench.tables import described

TITLE = 42  # characters of a title's line: a longer one would take its width from the axes
NAME = 26  # characters of a row's name
NOTE = 78  # characters of a note's line under one column


def final(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that answer the question: those on the test split, or all if there are none (a
    search has seen `valid` only)."""
    tested = runs.query("split == 'test'")
    return runs if tested.empty else tested


def tuning(runs: pd.DataFrame) -> str:
    """A note on the runs that `final` leaves out."""
    count = len(runs) - len(final(runs))
    return (
        f"{count} run{'s' if count > 1 else ''} on the valid split, which tuned the others, not drawn"
        if count
        else ""
    )


def blocks(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of each block, in their order."""
    return [members for _, members in rows.groupby(BLOCK, sort=False)]


def sheet(
    parts: Sequence[pd.DataFrame], heights: Sequence[float] = (PANEL[1],), columns: int = 2
) -> tuple[Figure, list[list[Axes]]]:
    """A figure and, for each block, its axes from top to bottom, which are as high as `heights` in
    inches say; at most `columns` blocks stand side by side. Titles say in what the blocks differ.
    """
    columns = min(len(parts), columns)
    rows = math.ceil(len(parts) / columns)
    figure = Figure(
        figsize=(PANEL[0] * columns, sum(heights) * rows + 0.3), layout="constrained", dpi=200
    )
    FigureCanvasAgg(figure)  # measures text; no pyplot, no window
    grid = figure.subplots(
        rows * len(heights), columns, squeeze=False, height_ratios=[*heights] * rows
    )
    grid = (
        grid.reshape(rows, len(heights), columns).swapaxes(1, 2).reshape(-1, len(heights))
    )  # (panels, axes of a panel)
    abouts = [_about(members) for members in parts]
    for panel, about in zip(grid, abouts, strict=False):
        title = ", ".join([about["task"], *described(about, _differing(abouts))])
        panel[0].set_title(textwrap.fill(title, TITLE), fontsize=8, loc="left")
    for axes in grid[len(parts) :].flat:
        axes.remove()
    return figure, [list(panel) for panel in grid[: len(parts)]]


def annotate(
    figure: Figure,
    parts: Sequence[pd.DataFrame],
    notes: Sequence[str],
    columns: int = 2,
    data: bool = True,
) -> None:
    """Write under the panels what all blocks have in common (how much data only if `data`), and the
    notes."""
    abouts = [_about(members) for members in parts]
    common = described(abouts[0], {*BLOCK} - _differing(abouts) - (set() if data else {"data"}))
    text = textwrap.fill(
        "; ".join([*common, *(note for note in notes if note)]), NOTE * min(len(parts), columns)
    )
    figure.supxlabel(text, fontsize=6, color=GREY, x=0.01, ha="left")


def few_arms(runs: pd.DataFrame, most: int = 14) -> tuple[pd.DataFrame, str]:
    """The runs, where a block has more than `most` arms only those of each method's arm with the
    lowest mean nll, and a note on it."""
    kept: list[pd.DataFrame] = []
    cut = False
    for members in blocks(runs):
        if len(set(members["arm"])) > most:
            best = list(
                arms(members).sort_values("nll", kind="stable").drop_duplicates("method")["arm"]
            )
            members, cut = members.loc[members["arm"].isin(best)], True
        kept.append(members)
    note = (
        f"of more than {most} arms, each method's with the lowest nll, which flatters it: chosen on the same examples"
        if cut
        else ""
    )
    return pd.concat(kept) if kept else runs, note


def rows_height(names: Sequence[Sequence[str]], around: float) -> float:
    """How high, in inches, panels with these rows of names must be, with `around` for the axis
    below and the title."""
    lines = max(len(textwrap.wrap(name, NAME)) for each in names for name in each)
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


def legend(axes: Axes, handles: Sequence[Artist]) -> None:
    """Turn axes below a panel into its legend."""
    axes.axis("off")
    axes.legend(
        handles=handles,
        loc="upper center",
        ncols=legend_columns([str(handle.get_label()) for handle in handles]),
        fontsize=SMALL - 1,
        frameon=False,
        borderaxespad=0,
        handlelength=2.4 if isinstance(handles[0], Line2D) else 1,
        columnspacing=1,
    )


def legend_columns(names: Sequence[str]) -> int:
    """How many names stand side by side."""
    longest = max(map(len, names))
    return (
        5 if len(names) == 5 and longest < 12 else 4 if longest < 12 else 2 if longest < 32 else 1
    )


def not_drawn(what: Sequence[str], tasks: Sequence[str], why: str = "") -> str:
    """A note on what is missing; nothing if nothing is."""
    counts: dict[str, int] = {}
    for label, task in zip(what, tasks, strict=True):
        counts[f"{label} ({task})"] = counts.get(f"{label} ({task})", 0) + 1
    if not counts:
        return ""
    shown = [name if number == 1 else f"{name} x{number}" for name, number in counts.items()]
    more = [f"and {len(shown) - 12} more"] if len(shown) > 12 else []
    return f"not drawn{why}: {', '.join([*shown[:12], *more])}"


def without(runs: pd.DataFrame, drawn: pd.DataFrame) -> pd.DataFrame:
    """The runs that are not among those drawn."""
    shown = set(drawn[RUN].itertuples(index=False, name=None))
    return runs.loc[[run not in shown for run in runs[RUN].itertuples(index=False, name=None)]]


def short_names(rows: pd.DataFrame) -> list[str]:
    """Names for rows of one panel, as short as tells them apart: the method, with as many of the
    arguments, then of the training settings in which the rows of that method differ as are needed.
    """
    names = [""] * len(rows)
    settings = [
        json.loads(row["args"]) | {key.removeprefix("train."): row[key] for key in TRAIN}
        for row in _dicts(rows)
    ]
    methods = list(rows["method"])
    for method in dict.fromkeys(methods):
        places = [i for i, other in enumerate(methods) if other == method]
        told: dict[int, tuple[str, ...]] = dict.fromkeys(places, ())
        for key in dict.fromkeys(key for i in places for key in settings[i]):
            more = {
                i: (*told[i], f"{key}={text}") if (text := _text(settings[i].get(key))) else told[i]
                for i in places
            }
            if len(set(more.values())) > len(set(told.values())):
                told = more
        for i in places:
            names[i] = f"{method} ({', '.join(told[i])})" if told[i] else method
    return names


def _dicts(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in rows.to_dict("records")]


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float | np.floating):
        return f"{value:.3g}"
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


def _about(members: pd.DataFrame) -> dict[str, Any]:
    return dict(members[BLOCK].iloc[0])


def _differing(abouts: Sequence[dict[str, Any]]) -> set[str]:
    return {name for name in BLOCK if len({about[name] for about in abouts}) > 1}
