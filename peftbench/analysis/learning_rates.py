"""How much a method's result depends on its learning rate: medians per learning rate, and the range
in which it is nearly as good as at its best."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from peftbench.analysis.frame import BLOCK, distinct

Array = NDArray[np.float64]
PER_DECADE = 4  # bins; fewer learning rates than that are bins of their own
VALUES = {"metric": -math.inf, "nll": math.inf}  # and what a run counts as that diverged


@dataclass(frozen=True)
class Region:
    """Learning rates that are nearly as good as the best; open: it ends where no more were tried."""

    low: float
    high: float
    open_low: bool
    open_high: bool

    @property
    def decades(self) -> float:
        return math.log10(self.high / self.low)


def bins(lrs: Sequence[float], per_decade: int = PER_DECADE) -> list[float]:
    """The learning rate that stands for each: itself where few were tried, else the geometric mean
    of all in its part of a decade."""
    logs = np.log10(lrs)
    if len(set(lrs)) <= per_decade * (logs.max() - logs.min()) + 1.5:
        return [float(lr) for lr in lrs]
    places = np.round(logs * per_decade)
    means = {place: float(10 ** logs[places == place].mean()) for place in set(places)}
    return [means[place] for place in places]


def by_learning_rate(runs: pd.DataFrame) -> pd.DataFrame:
    """A row per block, method and bin of learning rates among the runs on `valid`: lr, n (runs that
    are done), diverged, pruned, and for metric and nll the median with `.low` and `.high`, the
    smallest and largest of runs that are done.

    A run that diverged counts as worse than all others, so a median can be infinite; one that was
    ended early counts in no median: what it would have reached is unknown.
    """
    rows: list[dict[str, Any]] = []
    for _, members in (
        distinct(runs).query("split == 'valid'").groupby([*BLOCK, "method"], sort=False)
    ):
        head = {str(name): members[name].iloc[0] for name in [*BLOCK, "method", "primary"]}
        groups = np.array(bins(members["train.lr"].tolist()))
        for lr in sorted(set(groups)):
            rows.append(head | {"lr": float(lr)} | _summary(members.loc[groups == lr]))
    columns = [*BLOCK, "method", "primary", "lr", "n", "diverged", "pruned"]
    return pd.DataFrame(
        rows,
        columns=[*columns, *(f"{name}{part}" for name in VALUES for part in ("", ".low", ".high"))],
    )


def _summary(members: pd.DataFrame) -> dict[str, float]:
    done = members.query("status == 'done'")
    diverged, pruned = (
        len(members.query(f"status == {status!r}")) for status in ("diverged", "pruned")
    )
    row: dict[str, float] = {"n": len(done), "diverged": diverged, "pruned": pruned}
    for name, worst in VALUES.items():
        values = done[name].dropna().to_numpy(float)
        row[f"{name}.low"], row[f"{name}.high"] = (
            (values.min(), values.max()) if values.size else (math.nan, math.nan)
        )
        row[name] = _median([*values, *[worst] * diverged])
    return row


def _median(values: Sequence[float]) -> float:
    """The median; infinite if one of the middle two is."""
    if not values:
        return math.nan
    ordered = sorted(values)
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return low if low == high else (low + high) / 2


def good_region(
    lrs: Sequence[float], nll: Sequence[float], tolerance: float = 0.02
) -> Region | None:
    """The learning rates around the best one whose nll is at most `tolerance` (relative) above the
    best; None if no nll is finite.

    Between learning rates that were tried, nll is taken to run straight over the logarithm; towards
    one that diverged nothing is assumed, and the region ends before it. Unknown values (NaN) are
    left out.
    """
    pairs = sorted(
        (math.log10(lr), value) for lr, value in zip(lrs, nll, strict=True) if not math.isnan(value)
    )
    if not any(math.isfinite(value) for _, value in pairs):
        return None
    best = min(range(len(pairs)), key=lambda i: pairs[i][1])
    limit = pairs[best][1] * (1 + tolerance)
    low, open_low = _end(pairs[best::-1], limit)
    high, open_high = _end(pairs[best:], limit)
    return Region(10**low, 10**high, open_low, open_high)


def _end(pairs: Sequence[tuple[float, float]], limit: float) -> tuple[float, bool]:
    """Where the values, followed from the first, rise above `limit`, and whether they never do."""
    for (x, a), (y, b) in itertools.pairwise(pairs):
        if b > limit:
            return (x + (limit - a) / (b - a) * (y - x), False) if math.isfinite(b) else (x, False)
    return pairs[-1][0], True
