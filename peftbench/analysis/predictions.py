"""Predictions as arrays: every metric as a function of sums over examples, so that leaving one out
is a subtraction."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from peftbench.analysis.intervals import CORRELATION, POSITIVE, SHARE, Array, Scale
from peftbench.metrics.constant import constant_nlls


@dataclass(frozen=True)
class Statistic:
    """A metric as `value` (..., k) -> (...) of sums over examples of k features; the scale of its
    intervals."""

    value: Callable[[Array], Array]
    scale: Scale


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


def _f1(sums: Array) -> Array:
    """F1 of label 1 from (true positives, false positives, false negatives); NaN without any."""
    tp, fp, fn = np.moveaxis(sums, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return 2 * tp / (2 * tp + fp + fn)


def _pearson(sums: Array) -> Array:
    """Pearson correlation of (1, x, y, x x, y y, x y); NaN where one side is constant."""
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (n * xy - x * y) / np.sqrt((n * xx - x * x) * (n * yy - y * y))


MEAN, NLL = Statistic(_ratio, SHARE), Statistic(_ratio, POSITIVE)
MATTHEWS, F1 = Statistic(_matthews, CORRELATION), Statistic(_f1, SHARE)
# Of Spearman's correlation an example's feature is what it stands for, see `_spearman`.
PEARSON, SPEARMAN = Statistic(_pearson, CORRELATION), Statistic(_ratio, CORRELATION)
ZERO = Statistic(lambda sums: np.zeros(sums.shape[:-1]), CORRELATION)  # of a constant
# Any other metric is the mean of the examples' scores.
STATISTICS = {
    "matthews_correlation": MATTHEWS,
    "f1": F1,
    "pearson": PEARSON,
    "spearman": SPEARMAN,
    "nll": NLL,
}


@dataclass(frozen=True)
class ByExample:
    """A value of several runs of one arm, by seed and example."""

    statistic: Statistic
    ids: pd.Index  # (N,)
    features: Array  # (S, N, k)

    def at(self, seeds: Sequence[int], ids: pd.Index) -> "ByExample":
        """The part of some seeds (their places) and ids."""
        return ByExample(self.statistic, ids, _at(self.features[list(seeds)], self.ids, ids, 1))

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
    aligned = [_at(features, own, ids, 0) for own, features in of_seeds]
    return ByExample(statistic, ids, np.stack(aligned)) if len(ids) else None


def best_constant(name: str, primary: str, table: pd.DataFrame, seeds: int) -> ByExample | None:
    """The best predictor that always answers the same, on the examples of a table, as if it had run
    with so many seeds; None where targets are texts, which no constant answers.

    Labels: the label that scores most; for nll the shares of the labels among the targets. Numbers:
    their mean. A correlation with a constant is taken for 0. The targets scored are used and not
    those trained on, so that no constant known before could be better.
    """
    first = table.drop_duplicates("id")
    target = _numbers(first["target"]) if "target" in first else None
    if target is None or not np.isfinite(target).all() or not len(target):
        return None
    statistic = STATISTICS.get(name, MEAN)
    if statistic in (MATTHEWS, PEARSON, SPEARMAN):
        tables, statistic = [first.assign(nll=0.0, count=1)], ZERO
    elif statistic is NLL:
        regression = STATISTICS.get(primary) in (PEARSON, SPEARMAN)
        tables = [first.assign(nll=constant_nlls(target, regression=regression), count=1)]
    else:
        answers = np.unique(target)
        tables = [first.assign(answer=label, score=target == label) for label in answers]
    constants = [known for one in tables if (known := _features(statistic, one)) is not None]
    if not constants:
        return None
    sums = [float(np.nan_to_num(statistic.value(features.sum(0)))) for _, features in constants]
    ids, features = constants[int(np.argmin(sums) if statistic is NLL else np.argmax(sums))]
    return ByExample(statistic, ids, np.repeat(features[None], seeds, 0))


def shared_ids(ids: Sequence[pd.Index]) -> pd.Index:
    """Those that all have, in the order of the first. Mostly they are the same, which is seen in a
    tenth of the time that an intersection takes."""
    return reduce(
        lambda shared, others: (
            shared if shared.equals(others) else shared.intersection(others, sort=False)
        ),
        ids,
    )


def _at(features: Array, own: pd.Index, ids: pd.Index, axis: int) -> Array:
    """Features of the examples `own` along an axis, of the examples `ids` among them."""
    return features if own.equals(ids) else features.take(own.get_indexer(ids), axis)


def _features(statistic: Statistic, table: pd.DataFrame) -> tuple[pd.Index, Array] | None:
    """A run's ids (N,) and their features (N, k); None where the predictions lack what the metric
    needs."""
    ids = pd.Index(table["id"])
    one_answer_each = ids.is_unique and not ids.hasnans
    if statistic is MEAN:  # several answers to an example are one score, their mean
        scores: Any = table.set_index(ids)["score"]
        means = scores if one_answer_each else scores.groupby(level=0, sort=False).mean()
        means = means.dropna()
        return (means.index, np.c_[means, np.ones(len(means))]) if len(means) else None
    # An example's answers share its nll; only generated ones are several.
    first = table if one_answer_each else table.drop_duplicates("id")
    ids = pd.Index(first["id"])
    if statistic in (NLL, ZERO):
        return ids, first[["nll", "count"]].to_numpy(float)
    x, y = _numbers(first["answer"]), _numbers(first["target"])
    if x is None or y is None:
        return None
    if statistic in (MATTHEWS, F1):
        wrong = (x == 1) & (y == 0), (x == 0) & (y == 1)
        right = ((x == 1) & (y == 1), (x == 0) & (y == 0))[: 2 if statistic is MATTHEWS else 1]
        return ids, np.stack([*right, *wrong], 1).astype(float)
    if statistic is SPEARMAN:
        return ids, np.stack([_spearman(x, y), np.ones(len(x))], 1)
    return ids, _moments(x, y)


def _spearman(x: Array, y: Array) -> Array:
    """Spearman's correlation, Pearson's of the ranks, by what each example stands for: (N,), the
    jackknife's pseudo-values, centred. Leaving an example out lowers the ranks above its own."""
    n = len(x)
    rho = float(_pearson(_moments(stats.rankdata(x), stats.rankdata(y)).sum(0)))
    without = np.empty(n)
    for few in np.array_split(np.arange(n), -(-n // 64)):  # bounds the memory
        a, b = _ranks_without(x, few), _ranks_without(y, few)
        with np.errstate(divide="ignore", invalid="ignore"):
            without[few] = (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))
    return rho + (n - 1) * (without.mean() - without)


def _ranks_without(x: Array, places: NDArray[np.intp]) -> Array:
    """Ranks of the others where one of these places is left out, less their mean; 0 at the place
    itself: (places, N)."""
    own = x[places, None]
    ranks = stats.rankdata(x) - (x > own) - 0.5 * (x == own) - len(x) / 2
    ranks[np.arange(len(places)), places] = 0
    return ranks


def _moments(x: Array, y: Array) -> Array:
    """What Pearson's correlation is a function of, summed over examples: (N, 6)."""
    x, y = x - x.mean(), y - y.mean()
    return np.stack([np.ones(len(x)), x, y, x * x, y * y, x * y], 1)


def _numbers(column: Any) -> Array | None:
    """None where the column holds texts."""
    try:
        return column.to_numpy(float)
    except (TypeError, ValueError):
        return None
