"""Logarithmic axes, with round numbers."""

import math
import re
from collections.abc import Callable, Collection, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

PARTS = {2: ((1.0,), (1.0, 1.5), (1.0, 1.25, 1.5, 1.75)), 10: ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0))}


def round_ticks(low: float, high: float, base: int) -> list[float]:
    """Round numbers between two positive ones, three to six of them unless the range is too narrow
    for three; base: 2 or 10."""
    powers = range(math.floor(math.log(low, base)), math.ceil(math.log(high, base)) + 1)
    ticks: list[float] = []
    for parts in PARTS[base]:
        numbers = [part * float(base) ** power for power in powers for part in parts]
        ticks = [number for number in numbers if low <= number <= high]
        if len(ticks) >= 3:
            break
    return ticks[:: math.ceil(len(ticks) / 6) or 1]


def log_axis(axes: Axes, values: Collection[float]) -> None:
    """A logarithmic horizontal axis with some room around positive values."""
    low, high = min(values), max(values)
    room = (high / low) ** 0.06
    axes.set_xscale("log")
    axes.set_xlim(low / room, high * room)


def only_ticks(axes: Axes, ticks: Sequence[float], text: Callable[[float], str]) -> None:
    """Ticks of the horizontal axis at these places and no other; zeros after the point of a number
    with a unit are left out."""
    axes.set_xticks(ticks, [re.sub(r"\.0+ ", " ", text(tick)) for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
