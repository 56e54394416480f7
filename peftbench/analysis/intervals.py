"""Intervals and tests for a mean over seeds and examples, on plain arrays.

The question is always about the method: what would other seeds and other test examples have said?
With values u (S seeds, N examples) the mean's variance is that of two crossed random effects, and a
classic estimate of it is A + max(B - C, 0) with

    A = var(means over examples) / S          (S - 1 degrees of freedom)
    B = var(means over seeds) / N             (N - 1)
    C = mean square of what neither explains / (S N)

(Clark 1973, "The language-as-fixed-effect fallacy", J. Verbal Learning 12, 335-359). Its degrees of
freedom follow Satterthwaite (Biometrics 2, 1946). A seed's sign can be flipped in 2^S ways, so that
a permutation test of S = 5 seeds cannot fall below p = 0.0625; Student's t can, and it is exact
where seeds differ normally. So the test here is Student's, and asks for both: that seeds agree (A
alone) and that the examples carry it (the sum). With one seed A is unknown, and all is about two
trained models, not methods: callers say so.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

Array = NDArray[np.float64]
LEVEL = 0.95
RESAMPLES = 1000
CHUNK = 4_000_000  # weights that are held at a time


def variances(values: Array, each: Array | None) -> tuple[Array, Array]:
    """Variances of the mean and their degrees of freedom, both (..., m): seeds alone (if several),
    then seeds and examples (if `each`).

    values: (..., S), one per seed; each: (..., S, N), whose means over examples are `values`. m is
    0, 1 or 2.
    """
    seeds = values.shape[-1]
    found: list[tuple[Array, Array]] = []
    if seeds > 1:
        a = values.var(-1, ddof=1) / seeds
        a = np.where(a > 1e-20 * (values**2).mean(-1), a, 0.0)  # rounding is no variance
        found.append((a, np.full_like(a, seeds - 1)))
    if each is not None and each.shape[-1] > 1:
        n = each.shape[-1]
        columns = each.mean(-2)  # (..., N)
        b = columns.var(-1, ddof=1) / n
        if seeds == 1:
            found.append((b, np.full_like(b, n - 1)))
        else:
            a = found[0][0]
            total = ((each - each.mean((-1, -2), keepdims=True)) ** 2).sum((-1, -2))
            rest = np.maximum(
                total - n * seeds * (seeds - 1) * a - seeds * n * (n - 1) * b, 0
            )  # sums of squares add up
            c = rest / ((seeds - 1) * (n - 1)) / (seeds * n)
            a = np.where(
                a > 1e-9 * c, a, c
            )  # few right answers out of few make equal means by chance; A is C or more on average
            e = np.maximum(b - c, 0)
            with np.errstate(invalid="ignore"):  # 0 / 0 where nothing varies
                df = (a + e) ** 2 / (a**2 / (seeds - 1) + e**2 / (n - 1))
            found = [(a, found[0][1]), (a + e, np.where(a + e > 0, df, seeds - 1.0))]
    if not found:
        empty = np.empty((*values.shape[:-1], 0))
        return empty, empty
    return np.stack([v for v, _ in found], -1), np.stack([d for _, d in found], -1)


def half_width(values: Array, each: Array | None) -> Array:
    """Half of the 95 % interval of the mean: (...), the wider one of seeds alone and of seeds and
    examples.

    NaN where nothing tells how wide it is: one seed and no examples, or values that do not vary at
    all.
    """
    v, df = variances(values, each)
    halves = special.stdtrit(df, (1 + LEVEL) / 2) * np.sqrt(v)  # Student's quantile
    widest = halves.max(-1, initial=0)
    return np.where(widest > 0, widest, np.nan)


def p_value(values: Array, each: Array | None) -> Array:
    """Two-sided p of a mean of 0: (...), the larger of those of seeds alone and of seeds and
    examples. 1 where the mean is 0; NaN where nothing tells, as in `half_width`."""
    v, df = variances(values, each)
    mean = np.abs(values.mean(-1, keepdims=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * special.stdtr(df, -mean / np.sqrt(v)).max(
            -1, initial=0, where=v > 0
        )  # Student's distribution function
    p = np.where((v > 0).any(-1), p, np.nan)
    return np.where((mean[..., 0] == 0) & (v.shape[-1] > 0), 1.0, p)


def sign_test(differences: Array) -> float:
    """Exact two-sided p that an example is as often better as worse, ties left out: McNemar's exact
    test where scores are 0 or 1."""
    better, worse = int((differences > 0).sum()), int((differences < 0).sum())
    return float(stats.binomtest(better, better + worse).pvalue) if better + worse else 1.0


def sign_flip(differences: Array) -> float:
    """Exact two-sided p of the mean under flips of each seed's sign: differences (S,). At least 2 /
    2^S; NaN beyond 16 seeds or below 2."""
    if not 2 <= len(differences) <= 16:
        return float("nan")
    sums = np.zeros(1)
    for difference in differences:
        sums = np.concatenate(
            [sums + difference, sums - difference]
        )  # every choice of signs, the unflipped one first
    return float((np.abs(sums) >= abs(sums[0]) * (1 - 1e-9)).mean())


def holm(p: Array) -> Array:
    """Holm's step-down adjusted p of a family; NaN stays NaN and is not of the family."""
    adjusted = np.full(p.shape, np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1)
    return adjusted


def improvement(x: Array, y: Array) -> float:
    """How probable it is that a run of x is better than one of y, whatever their seeds: a tie
    counts half (arXiv:2108.13264)."""
    return (
        float((np.sign(x[:, None] - y[None]) + 1).mean() / 2) if len(x) and len(y) else float("nan")
    )


def example_weights(
    n: int, rng: np.random.Generator, resamples: int = RESAMPLES
) -> Iterator[Array]:
    """How often each of n examples is drawn, (some, n) at a time, `resamples` in all."""
    most = CHUNK // n + 1
    for done in range(0, resamples, most):
        size = min(most, resamples - done)
        drawn = rng.integers(0, n, (size, n)) + n * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(float)


def interval(mean: float, half: float, resampled: Array) -> tuple[float, float]:
    """An interval as wide as 2 `half`, and as lopsided around the mean as the percentile interval
    of the resampled means.

    Percentiles alone are too narrow with few seeds: five resampled values vary less than five new
    ones, and normally where t is due.
    """
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    below, above = max(mean - low, 0.0), max(high - mean, 0.0)
    share = below / (below + above) if below + above > 0 else 0.5
    return mean - 2 * half * share, mean + 2 * half * (1 - share)
