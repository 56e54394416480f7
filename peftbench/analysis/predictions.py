"""Predictions as arrays: every metric as a function of sums over examples, so that resampling
examples is a matrix product."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd

from peftbench.analysis.intervals import Array


@dataclass(frozen=True)
class Statistic:
    """A metric as `value` (..., k) -> (...) of sums over examples of k features; its bounds."""

    value: Callable[[Array], Array]
    low: float
    high: float


def _ratio(sums: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return sums[..., 0] / sums[..., 1]


def _matthews(sums: Array) -> Array:
    """Matthews correlation of (true positives, true negatives, false positives, false negatives); 0
    where one side is constant."""
    tp, tn, fp, fn = np.moveaxis(sums, -1, 0)
    product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return np.where(
        product > 0, (tp * tn - fp * fn) / np.sqrt(np.where(product > 0, product, 1)), 0.0
    )


def _pearson(sums: Array) -> Array:
    """Pearson correlation of (1, x, y, x x, y y, x y); NaN where one side is constant."""
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (n * xy - x * y) / np.sqrt((n * xx - x * x) * (n * yy - y * y))


MEAN, NLL = Statistic(_ratio, 0.0, 1.0), Statistic(_ratio, 0.0, np.inf)
MATTHEWS, PEARSON = Statistic(_matthews, -1.0, 1.0), Statistic(_pearson, -1.0, 1.0)
# Any other metric is the mean of the examples' scores.
STATISTICS = {"matthews_correlation": MATTHEWS, "pearson": PEARSON, "nll": NLL}


@dataclass(frozen=True)
class ByExample:
    """A value of several runs of one arm, by seed and example."""

    statistic: Statistic
    ids: pd.Index  # (N,)
    features: Array  # (S, N, k)

    def at(self, seeds: Sequence[int], ids: pd.Index) -> "ByExample":
        """The part of some seeds (their places) and ids."""
        features = self.features[list(seeds)].take(self.ids.get_indexer(ids), 1)
        return ByExample(self.statistic, ids, features)

    def values(self) -> Array:
        """One value for each seed: (S,)."""
        return self.statistic.value(self.features.sum(1))

    def scores(self) -> Array:
        """(S, N): what each example stands for, with a seed's value as mean over examples. A mean's
        are the scores themselves; another metric's are the jackknife's pseudo-values, centred."""
        n = len(self.ids)
        if self.statistic is MEAN:
            return self.features[..., 0]
        if n < 2:
            return np.repeat(self.values()[:, None], n, 1)
        sums = self.features.sum(1, keepdims=True)
        without = self.statistic.value(sums - self.features)  # (S, N)
        return self.values()[:, None] + (n - 1) * (without.mean(1, keepdims=True) - without)

    def resampled(self, weights: Array) -> Array:
        """The seeds' values on resampled examples: weights (B, N) -> (B, S)."""
        seeds, n, k = self.features.shape
        sums = weights @ self.features.transpose(1, 0, 2).reshape(n, seeds * k)
        return self.statistic.value(sums.reshape(-1, seeds, k))


def by_example(name: str, recorded: Array, tables: Sequence[pd.DataFrame]) -> ByExample | None:
    """`name` ("nll" or a metric's name) by seed and example; None where the predictions do not give
    the recorded values again.

    recorded: (S,), tables: each seed's predictions. Examples that not all seeds have scored are
    left out, after the check.
    """
    statistic = STATISTICS.get(name, MEAN)
    of_seeds: list[tuple[pd.Index, Array]] = []
    for table, value in zip(tables, recorded, strict=True):
        features = _features(statistic, table)
        if features is None or not np.isclose(
            statistic.value(features[1].sum(0)), value, rtol=1e-6, atol=1e-7
        ):
            return None
        of_seeds.append(features)
    ids = shared_ids([own for own, _ in of_seeds])
    aligned = [features[own.get_indexer(ids)] for own, features in of_seeds]
    return ByExample(statistic, ids, np.stack(aligned)) if len(ids) else None


def shared_ids(ids: Sequence[pd.Index]) -> pd.Index:
    """Those that all have, in the order of the first."""
    return reduce(lambda shared, others: shared.intersection(others, sort=False), ids)


def _features(statistic: Statistic, table: pd.DataFrame) -> tuple[pd.Index, Array] | None:
    """A run's ids (N,) and their features (N, k); None where the predictions lack what the metric
    needs."""
    if statistic is MEAN:  # several answers to an example are one score, their mean
        scores: Any = table.groupby("id", sort=False)["score"]
        means = scores.mean().dropna()
        return (means.index, np.c_[means, np.ones(len(means))]) if len(means) else None
    # An example's answers share its nll; only generated ones are several.
    first = table.drop_duplicates("id")
    ids = pd.Index(first["id"])
    if statistic is NLL:
        return ids, first[["nll", "count"]].to_numpy(float)
    try:
        x, y = first["answer"].to_numpy(float), first["target"].to_numpy(float)
    except (TypeError, ValueError):  # texts
        return None
    if statistic is MATTHEWS:
        cells = [(x == 1) & (y == 1), (x == 0) & (y == 0), (x == 1) & (y == 0), (x == 0) & (y == 1)]
        return ids, np.stack(cells, 1).astype(float)
    x, y = x - x.mean(), y - y.mean()
    return ids, np.stack([np.ones(len(x)), x, y, x * x, y * y, x * y], 1)
