"""Values to estimates: a mean with its interval, how two arms differ, and which of that is more
than chance."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from peftbench.analysis.blocks import Value
from peftbench.analysis.intervals import (
    Array,
    half_width,
    holm,
    improvement,
    p_value,
    rejects,
    sign_flip,
)
from peftbench.analysis.predictions import ByExample, shared_ids

Over = Literal["seeds and examples", "seeds", "examples"]
BETTER: dict[Value, float] = {"metric": 1.0, "nll": -1.0}  # the sign that makes positive better


@dataclass(frozen=True, eq=False)
class Values:
    """A value of an arm: one number for each seed, and by example where predictions give it
    again."""

    seeds: tuple[int, ...]
    numbers: Array  # (S,)
    by_example: ByExample | None


@dataclass(frozen=True)
class Interval:
    """A 95 % interval, and what it covers: one over examples says nothing of other seeds, one over
    seeds nothing of other examples."""

    low: float
    high: float
    over: Over


@dataclass(frozen=True)
class Estimate:
    """What an arm reaches: mean over the seeds that are done, their standard deviation (None for
    one seed), the mean's interval. The mean is None where a seed lacks the value; the interval
    where one number alone, or numbers that do not vary, do not say how sure they are."""

    mean: float | None
    std: float | None
    interval: Interval | None
    best: bool = False  # better than every other arm of its block by more than chance


@dataclass(frozen=True)
class Difference:
    """How much better an arm is than another, over shared seeds and shared examples: positive is
    better, for nll too. Unknown parts are None."""

    seeds: int  # shared
    difference: float | None = None
    interval: Interval | None = None
    p: float | None = None  # paired test
    p_holm: float | None = None  # corrected over all that are compared with the same arm
    p_flip: float | None = None  # exact sign-flip test of the seeds, at least 2 / 2^seeds
    improvement: float | None = None  # probability that a run beats one of the other arm

    @property
    def is_better(self) -> bool:
        """By more than chance."""
        return rejects(self.p_holm) and (self.difference or 0) > 0

    @property
    def is_worse(self) -> bool:
        return rejects(self.p_holm) and (self.difference or 0) < 0


def best(values: Sequence[Values], sign: float) -> int | None:
    """Which is the best by more than chance: in a paired test against every other; None if there is
    none.

    The rule asks every test to reject (an intersection-union test, Berger 1982), so that without
    any correction a tie of the best two is taken for a difference in at most 5 % of cases.
    """
    means = [sign * float(value.numbers.mean()) for value in values]
    finite = [i for i, mean in enumerate(means) if np.isfinite(mean)]
    if len(finite) < 2:
        return None
    top = max(finite, key=means.__getitem__)
    pairs = [_Paired.of(values[i], values[top], sign) for i in finite if i != top]
    worse = all(pair.mean is not None and pair.mean < 0 for pair in pairs)
    return top if worse and all(rejects(pair.p) for pair in pairs) else None


def estimate(values: Values) -> Estimate:
    """Mean, standard deviation and interval of one arm's value."""
    mean = _known(values.numbers.mean())
    if mean is None:
        return Estimate(None, None, None)
    std = float(values.numbers.std(ddof=1)) if len(values.seeds) > 1 else None
    own = values.by_example
    half = float(half_width(values.numbers, own.scores() if own else None))
    if not np.isfinite(half):
        return Estimate(mean, std, None)
    if own is None:
        return Estimate(mean, std, Interval(mean - half, mean + half, "seeds"))
    ends = own.statistic.scale.interval(mean, half)
    return Estimate(mean, std, Interval(*ends, _over(values.numbers)))


def differences(
    values: Sequence[Values],
    reference: Values,
    sign: float,
) -> list[Difference]:
    """How much better each of the values is than the reference's, corrected as one family. sign:
    makes positive better."""
    pairs = [_Paired.of(value, reference, sign) for value in values]
    adjusted = holm([pair.p for pair in pairs])
    return [pair.difference(p_holm) for pair, p_holm in zip(pairs, adjusted, strict=True)]


Terms = Sequence[tuple[float, ByExample]]  # values by example, and the factors of their sum


def _over(numbers: Array) -> Over:
    """What the interval of numbers that are known by example covers."""
    return "seeds and examples" if len(numbers) > 1 else "examples"


@dataclass(frozen=True, eq=False)
class _Paired:
    """Two arms' values over shared seeds and examples; greater is better."""

    ours: Array  # (S,)
    theirs: Array  # (S,)
    terms: Terms  # of the difference, where predictions give both by example

    @classmethod
    def of(cls, ours: Values, theirs: Values, sign: float) -> "_Paired":
        seeds = [seed for seed in ours.seeds if seed in theirs.seeds]
        here, there = ([side.seeds.index(seed) for seed in seeds] for side in (ours, theirs))
        numbers, terms = (ours.numbers[here], theirs.numbers[there]), ()
        if seeds and ours.by_example and theirs.by_example:
            ids = shared_ids([ours.by_example.ids, theirs.by_example.ids])
            if len(ids):
                own, other = ours.by_example.at(here, ids), theirs.by_example.at(there, ids)
                numbers, terms = (own.values(), other.values()), ((sign, own), (-sign, other))
        return cls(sign * numbers[0], sign * numbers[1], terms)

    @cached_property
    def numbers(self) -> Array:
        """The difference of each seed, (S,)."""
        return self.ours - self.theirs

    @cached_property
    def mean(self) -> float | None:
        return _known(self.numbers.mean()) if len(self.numbers) else None

    @cached_property
    def scores(self) -> Array | None:
        """The difference by seed and example, (S, N), where predictions give it."""
        if not self.terms:
            return None
        return np.sum([factor * term.scores() for factor, term in self.terms], 0)

    @cached_property
    def p(self) -> float | None:
        if self.mean is None:
            return None
        return _known(p_value(self.numbers, self.scores))

    @cached_property
    def interval(self) -> Interval | None:
        """The interval that inverts the test: it holds 0 if the test does not reject."""
        half = float(half_width(self.numbers, self.scores))
        if self.mean is None or not np.isfinite(half):
            return None
        over = _over(self.numbers) if self.terms else "seeds"
        return Interval(self.mean - half, self.mean + half, over)

    def difference(self, p_holm: float | None) -> Difference:
        seeds = len(self.numbers)
        if self.mean is None:
            return Difference(seeds)
        return Difference(
            seeds=seeds,
            difference=self.mean,
            interval=self.interval,
            p=self.p,
            p_holm=p_holm,
            p_flip=sign_flip(self.numbers),
            improvement=improvement(self.ours, self.theirs),
        )


def _known(number: float | np.floating | Array) -> float | None:
    """A number of Python's, None for NaN and infinities."""
    return float(number) if np.isfinite(number) else None
