"""Intervals and tests for a mean over seeds and examples, on plain arrays.

The question is always about the method: what would other seeds and other test examples have given?
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

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

Array = NDArray[np.float64]
CONFIDENCE = 0.95  # of every interval
ALPHA = 0.05  # the level of every test
UNVARIED = 1e-10  # relative: values that differ by no more are equal but for rounding


def rejects(p: float | None) -> bool:
    """Whether a test rejects; a p that is not known rejects nothing."""
    return p is not None and p <= ALPHA


def student_interval(values: Array) -> tuple[float, float] | None:
    """Student's interval of a mean over seeds, (S,); None for one value. Of values that do not vary
    but for rounding it is a point: what is counted, or equal by construction."""
    if len(values) < 2:
        return None
    if np.ptp(values) <= UNVARIED * np.abs(values).max():
        return float(np.median(values)), float(np.median(values))
    interval = stats.ttest_1samp(values, 0.0).confidence_interval(CONFIDENCE)
    return float(interval.low), float(interval.high)


def variances(values: Array, scores: Array | None) -> list[tuple[Array, Array]]:
    """Variances of the mean, each with its degrees of freedom, (...): of seeds alone (if several),
    and of seeds and examples (if `scores`); of examples alone where there is one seed.

    values: (..., S), one for each seed; scores: (..., S, N), whose means over examples are
    `values`.
    """
    seeds, n = values.shape[-1], 1 if scores is None else scores.shape[-1]
    a = values.var(-1, ddof=min(seeds - 1, 1)) / seeds
    a = np.where(a > UNVARIED**2 * (values**2).mean(-1), a, 0.0)
    if scores is None or n < 2:
        return [(a, np.full_like(a, seeds - 1))] if seeds > 1 else []
    b = scores.mean(-2).var(-1, ddof=1) / n
    if seeds < 2:
        return [(b, np.full_like(b, n - 1))]
    total = ((scores - scores.mean((-1, -2), keepdims=True)) ** 2).sum((-1, -2))
    explained = n * seeds * (seeds - 1) * a + seeds * n * (n - 1) * b  # sums of squares add up
    c = np.maximum(total - explained, 0) / ((seeds - 1) * (n - 1)) / (seeds * n)
    # Few right answers out of few make equal means by chance; A is C or more on average.
    a = np.where(a > 1e-9 * c, a, c)
    e = np.maximum(b - c, 0)
    with np.errstate(invalid="ignore"):  # 0 / 0 where nothing varies
        df = (a + e) ** 2 / (a**2 / (seeds - 1) + e**2 / (n - 1))
    return [(a, np.full_like(a, seeds - 1)), (a + e, np.where(a + e > 0, df, seeds - 1.0))]


def half_width(values: Array, scores: Array | None) -> Array:
    """Half of the interval of the mean: (...), the wider one of seeds alone and of seeds and
    examples.

    NaN where nothing says how wide it is: one seed and no examples, or values that do not vary.
    """
    widest = np.zeros(values.shape[:-1])
    for v, df in variances(values, scores):
        widest = np.maximum(widest, special.stdtrit(df, (1 + CONFIDENCE) / 2) * np.sqrt(v))
    return np.where(widest > 0, widest, np.nan)


def p_value(values: Array, scores: Array | None) -> Array:
    """Two-sided p of a mean of 0: (...), the larger of those of seeds alone and of seeds and
    examples. 1 where the mean is 0; NaN where nothing says, as in `half_width`."""
    mean = np.abs(values.mean(-1))
    p = np.full(mean.shape, np.nan)
    for v, df in variances(values, scores):
        with np.errstate(divide="ignore", invalid="ignore"):
            tails = 2 * special.stdtr(df, -mean / np.sqrt(v))  # Student's distribution function
        p = np.fmax(p, np.where(v > 0, tails, np.nan))
        p = np.where(mean == 0, 1.0, p)
    return p


def sign_flip(differences: Array) -> float | None:
    """Exact two-sided p of the mean under flips of each seed's sign: differences (S,). At least 2 /
    2^S; None beyond 16 seeds or below 2."""
    if not 2 <= len(differences) <= 16:
        return None
    sums = np.zeros(1)
    for difference in differences:  # every choice of signs, the unflipped one first
        sums = np.concatenate([sums + difference, sums - difference])
    return float((np.abs(sums) >= abs(sums[0]) * (1 - 1e-9)).mean())


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjusted p of a family; None stays None and is not of the family."""
    adjusted: list[float | None] = [None] * len(p)
    family = sorted((value, i) for i, value in enumerate(p) if value is not None)
    largest = 0.0
    for passed, (value, i) in enumerate(family):
        largest = max(largest, value * (len(family) - passed))
        adjusted[i] = min(largest, 1.0)
    return adjusted


def improvement(x: Array, y: Array) -> float:
    """How probable it is that a run of x is better than one of y, whatever their seeds: a tie
    counts half (arXiv:2108.13264). Neither is empty."""
    return float((np.sign(x[:, None] - y[None]) + 1).mean() / 2)


@dataclass(frozen=True)
class Scale:
    """A scale without bounds, on which the interval of one arm's mean is symmetric: so it is
    lopsided towards the middle of the value's own range, and never leaves that range."""

    forth: Callable[[float], float]
    back: Callable[[float], float]
    slope: Callable[[float], float]  # derivative of `forth`
    low: float  # ends of the value's range
    high: float

    def interval(self, mean: float, half: float) -> tuple[float, float]:
        """The interval of a mean whose symmetric interval would be mean +- half, by the delta
        method; the symmetric one itself for a mean that is not inside the range."""
        if not self.low < mean < self.high:
            return mean - half, mean + half
        middle, reach = self.forth(mean), half * self.slope(mean)
        return float(self.back(middle - reach)), float(self.back(middle + reach))


SHARE = Scale(special.logit, special.expit, lambda p: 1 / (p * (1 - p)), 0.0, 1.0)
CORRELATION = Scale(np.arctanh, np.tanh, lambda r: 1 / (1 - r * r), -1.0, 1.0)
POSITIVE = Scale(np.log, np.exp, lambda x: 1 / x, 0.0, np.inf)
