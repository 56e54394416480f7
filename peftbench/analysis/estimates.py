"""Values to estimates: a mean with its interval, how two arms differ, and which of that is more
than chance."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from peftbench.analysis.blocks import Arm, Block, Value, canonical
from peftbench.analysis.intervals import (
    Array,
    example_weights,
    half_width,
    holm,
    improvement,
    lopsided,
    p_value,
    rejects,
    sign_flip,
    sign_test,
)
from peftbench.analysis.predictions import MEAN, ByExample, shared_ids

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
    p: float | None = None  # paired test; for one seed with scores the exact sign test
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


def generator(block: Block, *what: str | Arm) -> np.random.Generator:
    """For resampling: the same for the same numbers, whatever else is in the store."""
    question = vars(block.question) | {"place": block.place}
    if question["pooling"] == "model":  # as in a run's id: it goes without saying
        del question["pooling"]
    words = [part if isinstance(part, str) else part.runs[0].settings_key for part in what]
    digest = hashlib.sha256(canonical([[*map(str, question.values())], *words]).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8]))


def best(values: Sequence[Values], sign: float) -> int | None:
    """Which is the best by more than chance: in a paired test against every other, after Holm's
    correction; None if there is none.

    The rule asks every test to reject, so that a tie of the best two is taken for a difference in
    at most 5 % of cases.
    """
    means = [sign * float(value.numbers.mean()) for value in values]
    finite = [i for i, mean in enumerate(means) if np.isfinite(mean)]
    if len(finite) < 2:
        return None
    top = max(finite, key=means.__getitem__)
    pairs = [_Paired.of(values[i], values[top], sign) for i in finite if i != top]
    worse = all(pair.mean is not None and pair.mean < 0 for pair in pairs)
    return top if worse and all(map(rejects, holm([pair.p for pair in pairs]))) else None


def estimate(values: Values, rng: np.random.Generator) -> Estimate:
    """Mean, standard deviation and interval of one arm's value."""
    mean = _known(values.numbers.mean())
    if mean is None:
        return Estimate(None, None, None)
    std = float(values.numbers.std(ddof=1)) if len(values.seeds) > 1 else None
    own = values.by_example
    interval = _interval(values.numbers, [(1.0, own)] if own else [], rng)
    if interval and own:
        low, high = max(interval.low, own.statistic.low), min(interval.high, own.statistic.high)
        interval = replace(interval, low=low, high=high)
    return Estimate(mean, std, interval)


def differences(
    values: Sequence[Values],
    reference: Values,
    sign: float,
    rngs: Sequence[np.random.Generator],
) -> list[Difference]:
    """How much better each of the values is than the reference's, corrected as one family. sign:
    makes positive better; rngs: a generator for each."""
    pairs = [_Paired.of(value, reference, sign) for value in values]
    adjusted = holm([pair.p for pair in pairs])
    return [
        pair.difference(rng, p_holm)
        for pair, rng, p_holm in zip(pairs, rngs, adjusted, strict=True)
    ]


Terms = Sequence[tuple[float, ByExample]]  # values by example, and the factors of their sum


def _scores(terms: Terms) -> Array | None:
    """The sum by seed and example, (S, N); None where there are no terms."""
    return np.sum([factor * term.scores() for factor, term in terms], 0) if terms else None


def _interval(numbers: Array, terms: Terms, rng: np.random.Generator) -> Interval | None:
    """The interval of the mean of `numbers`, one for each seed, (S,), which are the sum of the
    terms if there are any; None where nothing says how wide it is."""
    mean, half = float(numbers.mean()), float(half_width(numbers, _scores(terms)))
    if not np.isfinite(half):
        return None
    if not terms:
        return Interval(mean - half, mean + half, "seeds")
    draws = [
        np.sum([factor * term.resampled(weights) for factor, term in terms], 0)
        for weights in example_weights(len(terms[0][1].ids), rng)
    ]
    over = "seeds and examples" if len(numbers) > 1 else "examples"
    return Interval(*lopsided(mean, half, _reseeded(np.concatenate(draws), rng)), over)


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
    def p(self) -> float | None:
        if self.mean is None:
            return None
        scores = _scores(self.terms)
        if scores is not None and len(scores) == 1 and self.terms[0][1].statistic is MEAN:
            return sign_test(scores)
        return _known(p_value(self.numbers, scores))

    def difference(self, rng: np.random.Generator, p_holm: float | None) -> Difference:
        seeds = len(self.numbers)
        if self.mean is None:
            return Difference(seeds)
        return Difference(
            seeds=seeds,
            difference=self.mean,
            interval=_interval(self.numbers, self.terms, rng),
            p=self.p,
            p_holm=p_holm,
            p_flip=sign_flip(self.numbers),
            improvement=improvement(self.ours, self.theirs),
        )


def _reseeded(draws: Array, rng: np.random.Generator) -> Array:
    """Means over resampled seeds of values on resampled examples: (B, S) -> (B,), undefined ones
    left out."""
    seeds = rng.integers(0, draws.shape[1], draws.shape)
    means = np.take_along_axis(draws, seeds, 1).mean(1)
    return means[np.isfinite(means)] if np.isfinite(means).any() else np.zeros(1)


def _known(number: float | np.floating | Array) -> float | None:
    """A number of Python's, None for NaN and infinities."""
    return float(number) if np.isfinite(number) else None
