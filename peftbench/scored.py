"""Predictions as arrays: every metric as a function of sums over examples, so that resampling examples is a matrix product."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from peftbench.inference import Array

Value = Callable[[Array], Array]


@dataclass(frozen=True)
class Kind:
    """A metric as `value` (..., k) -> (...) of sums over examples of k features; its bounds."""

    value: Value
    low: float
    high: float


def _ratio(sums: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return sums[..., 0] / sums[..., 1]


def _matthews(sums: Array) -> Array:
    """Matthews correlation of (true positives, true negatives, false positives, false negatives); 0 where one side is constant."""
    tp, tn, fp, fn = np.moveaxis(sums, -1, 0)
    product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return np.where(product > 0, (tp * tn - fp * fn) / np.sqrt(np.where(product > 0, product, 1)), 0.0)


def _pearson(sums: Array) -> Array:
    """Pearson correlation of (1, x, y, x x, y y, x y); NaN where one side is constant."""
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (n * xy - x * y) / np.sqrt((n * xx - x * x) * (n * yy - y * y))


MEAN, NLL = Kind(_ratio, 0.0, 1.0), Kind(_ratio, 0.0, np.inf)
MATTHEWS, PEARSON = Kind(_matthews, -1.0, 1.0), Kind(_pearson, -1.0, 1.0)
KINDS = {"matthews_correlation": MATTHEWS, "pearson": PEARSON, "nll": NLL}  # any other metric: the mean of the examples' scores


@dataclass(frozen=True)
class Scored:
    """A value of several runs of one arm, by seed and example."""

    kind: Kind
    ids: pd.Index  # (N,)
    features: Array  # (S, N, k)

    def at(self, seeds: Sequence[int], ids: pd.Index) -> "Scored":
        """The part of some seeds (their places) and ids."""
        places = self.ids.get_indexer(ids)
        return Scored(self.kind, ids, self.features[list(seeds)][:, places])

    def values(self) -> Array:
        """One value per seed: (S,)."""
        return self.kind.value(self.features.sum(1))

    def each(self) -> Array:
        """(S, N): what each example stands for, with a seed's value as mean over examples. A mean's are the scores themselves; another
        metric's are the jackknife's pseudo-values, centred."""
        n = len(self.ids)
        if n < 2:
            return np.repeat(self.values()[:, None], n, 1)
        sums = self.features.sum(1, keepdims=True)
        without = self.kind.value(sums - self.features)  # (S, N)
        return self.values()[:, None] + (n - 1) * (without.mean(1, keepdims=True) - without)

    def resampled(self, weights: Array) -> Array:
        """The seeds' values on resampled examples: weights (B, N) -> (B, S)."""
        seeds, n, k = self.features.shape
        sums = weights @ self.features.transpose(1, 0, 2).reshape(n, seeds * k)
        return self.kind.value(sums.reshape(-1, seeds, k))


def scored(name: str, recorded: Array, tables: Sequence[pd.DataFrame]) -> Scored | None:
    """`name` ("nll" or a metric's name) by seed and example; None where the predictions do not give the recorded values again.

    recorded: (S,), tables: each seed's predictions. Examples that not all seeds have scored are left out, after the check.
    """
    kind = KINDS.get(name, MEAN)
    found = [_features(kind, table) for table in tables]
    for features, value in zip(found, recorded, strict=True):
        if features is None or features.empty:
            return None
        if not np.isclose(kind.value(features.to_numpy(float).sum(0)), value, rtol=1e-6, atol=1e-7):
            return None
    known = [features for features in found if features is not None]
    if not known:
        return None
    ids = known[0].index
    for features in known[1:]:
        ids = ids if ids.equals(features.index) else ids.intersection(features.index, sort=False)
    return Scored(kind, ids, np.stack([features.loc[ids].to_numpy(float) for features in known])) if len(ids) else None


def _features(kind: Kind, table: pd.DataFrame) -> pd.DataFrame | None:
    """A run's features by example (N, k); None where the predictions lack what the metric needs."""
    if kind is MEAN:
        asked = table.dropna(subset=["score"])  # several answers to an example are one score, their mean
        means = asked.pivot_table(values="score", index="id", aggfunc="mean", sort=False)
        return means.assign(one=1.0)
    first = table.drop_duplicates("id")  # an example's answers share its nll; only generated ones are several
    ids = pd.Index(first["id"])
    if kind is NLL:
        return pd.DataFrame({"nll": first["nll"].to_numpy(), "count": first["count"].to_numpy()}, ids)
    try:
        x, y = first["answer"].to_numpy(float), first["target"].to_numpy(float)
    except (TypeError, ValueError):  # texts
        return None
    if kind is MATTHEWS:
        cells = {"tp": (x == 1) & (y == 1), "tn": (x == 0) & (y == 0), "fp": (x == 1) & (y == 0), "fn": (x == 0) & (y == 1)}
        return pd.DataFrame(cells, ids, dtype=float)
    x, y = x - x.mean(), y - y.mean()
    return pd.DataFrame({"one": np.ones(len(x)), "x": x, "y": y, "xx": x * x, "yy": y * y, "xy": x * y}, ids)
