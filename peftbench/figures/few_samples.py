"""What each method reaches with few training examples."""

import json
import math
import re
from collections import defaultdict

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from peftbench.analysis.frame import TRAIN, distinct
from peftbench.figures.pareto import Y, round_ticks
from peftbench.figures.sheet import (
    annotate,
    blocks,
    final,
    legend,
    legend_columns,
    not_drawn,
    sheet,
    short_names,
    tuning,
    without,
)
from peftbench.figures.style import DASHES, NothingToDraw, axis_name, style, tidy
from peftbench.tables import human


def few_samples(runs: pd.DataFrame, y: Y = "metric") -> Figure:
    """The metric, or nll, against the number of training examples, a panel for each block of runs
    that differ in nothing but that.

    A line joins what has the same arguments, and the same training settings too where a size has
    several of them. Raises NothingToDraw if no block has runs of two sizes.
    """
    chosen = final(distinct(runs))
    chosen = chosen.assign(data=[_without_train(data) for data in chosen["data"]])
    done = chosen.query("status == 'done'").dropna(subset=[y, "examples"])
    parts = [_lines(members) for members in blocks(done) if len(set(members["examples"])) > 1]
    if not parts:
        raise NothingToDraw(
            "there is nothing to draw: no task has runs that are done with two numbers of training examples (data.train)"
        )
    names = [short_names(members.drop_duplicates("line")) for members in parts]
    lines = max(math.ceil(len(each) / legend_columns(each)) for each in names)
    figure, panels = sheet(parts, [2.3, 0.15 * lines + 0.1])
    for (axes, below), members, each in zip(panels, parts, names, strict=True):
        legend(below, _draw(axes, members, each, y))
    drawn = pd.concat(parts)
    missing = without(chosen, drawn)
    notes = [
        "means over seeds; bars: smallest to largest"
        if len(set(drawn["seed"])) > 1
        else "one seed",
        "one training setting for each method and size, not the same at all of them"
        if _settings_change(parts)
        else "",
        tuning(runs),
        not_drawn(list(missing["label"]), list(missing["task"])),
    ]
    annotate(figure, parts, notes, data=False)
    return figure


def _without_train(data: str) -> str:
    """A data spec's JSON as if all examples were used."""
    return json.dumps(json.loads(data) | {"train": None}, sort_keys=True, separators=(",", ":"))


def _lines(members: pd.DataFrame) -> pd.DataFrame:
    """The rows with `line`: what a line joins."""
    same = members["method"] + members["method_version"].astype(str) + members["args"]
    arms: defaultdict[tuple[str, float], set[str]] = defaultdict(set)
    for key, count, arm in zip(same, members["examples"], members["arm"], strict=True):
        arms[key, count].add(arm)
    several = {key for (key, _), found in arms.items() if len(found) > 1}
    lines = [arm if key in several else key for key, arm in zip(same, members["arm"], strict=True)]
    return members.assign(line=lines)


def _settings_change(parts: list[pd.DataFrame]) -> bool:
    return any(
        len(line.drop_duplicates(TRAIN)) > 1
        for members in parts
        for _, line in members.groupby("line")
    )


def _draw(axes: Axes, members: pd.DataFrame, names: list[str], y: Y) -> list[Line2D]:
    before: dict[str, int] = {}
    handles: list[Line2D] = []
    for (_, line), name in zip(members.groupby("line", sort=False), names, strict=True):
        method = str(line["method"].iloc[0])
        colour, marker = style(method)
        dash = DASHES[before.setdefault(method, 0) % len(DASHES)]
        before[method] += 1
        counts = sorted(set(line["examples"]))
        values = [line.loc[line["examples"] == count, y].to_numpy(float) for count in counts]
        means = np.array([each.mean() for each in values])
        bars = [means - [each.min() for each in values], [each.max() for each in values] - means]
        look = {
            "color": colour,
            "linestyle": dash,
            "linewidth": 1.1,
            "marker": marker,
            "markersize": 4.5,
        }
        axes.errorbar(counts, means, bars, elinewidth=0.8, **look)
        handles.append(Line2D([], [], label=name, **look))
    sizes = sorted(set(members["examples"]))
    low, high = sizes[0], sizes[-1]
    axes.set_xscale("log")
    axes.set_xlim(low / (high / low) ** 0.06, high * (high / low) ** 0.06)
    axes.xaxis.set_major_locator(
        FixedLocator(sizes if len(sizes) < 6 else round_ticks(low, high, 10))
    )
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: re.sub(r"\.0+ ", " ", human(value)))
    )
    tidy(axes, "training examples", axis_name(y, str(members["primary"].iloc[0])))
    return handles
