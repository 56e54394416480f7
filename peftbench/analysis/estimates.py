"""Blocks to estimates: what each arm reaches with its interval, how arms differ, and which of that
is more than chance."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd

from peftbench.analysis.blocks import (
    Arm,
    Block,
    Run,
    Value,
    canonical,
)
from peftbench.analysis.grouping import cost_blocks, counted, quality_blocks
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
from peftbench.analysis.predictions import MEAN, ByExample, by_example
from peftbench.record import Record
from peftbench.store import Store

Over = Literal["seeds and examples", "seeds", "examples"]
Predictions = Callable[[str], pd.DataFrame]  # those of a run, by its key
BETTER: dict[Value, float] = {"metric": 1.0, "nll": -1.0}  # the sign that makes positive better


@dataclass(frozen=True, eq=False)
class Values:
    """A value of an arm: one number for each seed, and by example where predictions give it
    again."""

    seeds: tuple[int, ...]
    numbers: Array  # (S,)
    by_example: ByExample | None

    @property
    def over(self) -> Over | None:
        """What an interval can cover."""
        several, examples = len(self.seeds) > 1, self.by_example is not None
        if several:
            return "seeds and examples" if examples else "seeds"
        return "examples" if examples else None


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
        return rejects(self.p_holm) and self.difference is not None and self.difference > 0

    @property
    def is_worse(self) -> bool:
        return rejects(self.p_holm) and self.difference is not None and self.difference < 0


@dataclass(frozen=True, eq=False)
class Results:
    """What tables, figures, claims and the page are made from: records and their predictions.

    predictions: those of a run by its key; without them intervals cover seeds only.
    """

    records: tuple[Record, ...]
    predictions: Predictions | None = None
    _values: dict[tuple[str, ...], dict[Value, Values]] = field(default_factory=dict)

    @classmethod
    def read(cls, store: Store) -> "Results":
        """All that a store holds. Raises InputError that names a file that cannot be trusted."""
        return cls(tuple(store.read_all()), store.predictions)

    @cached_property
    def final(self) -> tuple[Block, ...]:
        """The quality blocks of the runs that answer a question."""
        return quality_blocks(counted(self.records, "final"))

    @cached_property
    def costs(self) -> tuple[Block, ...]:
        """The cost blocks of the same runs."""
        return cost_blocks(counted(self.records, "final"))

    def costs_of(self, block: Block) -> tuple[Block, ...]:
        """The cost blocks of the question of a quality block: one for each place."""
        return tuple(costs for costs in self.costs if costs.question == block.question)

    @cached_property
    def tuning(self) -> tuple[Block, ...]:
        """The quality blocks of the runs on valid."""
        return quality_blocks(counted(self.records, "tuning"))

    @cached_property
    def trials(self) -> tuple[Run, ...]:
        """The runs that answer no question: trials of searches."""
        final = {run.key for run in counted(self.records, "final")}
        return tuple(run for run in map(Run, self.records) if run.key not in final)

    def values(self, arm: Arm, name: Value) -> Values:
        """A value of an arm that has a run that is done. Predictions are read once, and only where
        all of the runs left some."""
        key = tuple(run.key for run in arm.done)
        if key not in self._values:
            self._values[key] = self._read(arm.done)
        return self._values[key][name]

    def _read(self, runs: Sequence[Run]) -> dict[Value, Values]:
        tables: list[pd.DataFrame] | None = None
        if self.predictions and all(run.record.predictions for run in runs):
            tables = [self.predictions(run.key) for run in runs]
        seeds = tuple(run.seed for run in runs)
        both: dict[Value, Values] = {}
        for name in BETTER:
            numbers = np.array([run.value(name) for run in runs], float)  # None becomes NaN
            metric = runs[0].record.primary if name == "metric" else "nll"
            complete = tables is not None and bool(np.isfinite(numbers).all())
            by_seed = by_example(metric, numbers, tables) if tables and complete else None
            both[name] = Values(seeds, numbers, by_seed)
        return both

    def estimates(self, block: Block, name: Value) -> dict[Arm, Estimate]:
        """Of every arm of the block that has a run that is done."""
        of_arms = {arm: self.values(arm, name) for arm in block.arms if arm.done}
        top = best(list(of_arms.values()), BETTER[name])
        return {
            arm: replace(estimate(values, generator(block, name, arm)), best=place == top)
            for place, (arm, values) in enumerate(of_arms.items())
        }

    def differences(
        self, block: Block, reference: Arm, name: Value, arms: Iterable[Arm] | None = None
    ) -> dict[Arm, Difference]:
        """How much better each of `arms` (by default all others of the block that have a run that
        is done) is than the reference, corrected as one family."""
        compared = block.arms if arms is None else arms
        others = [arm for arm in compared if arm is not reference and arm.done]
        base, sign = self.values(reference, name), BETTER[name]
        pairs = [_Paired.of(self.values(arm, name), base, sign) for arm in others]
        adjusted = holm(np.array([np.nan if pair.p is None else pair.p for pair in pairs]))
        return {
            arm: pair.difference(generator(block, name, arm, reference), _known(p))
            for arm, pair, p in zip(others, pairs, adjusted, strict=True)
        }


def generator(block: Block, *what: str | Arm) -> np.random.Generator:
    """For resampling: the same for the same numbers, whatever else is in the store."""
    words = [part if isinstance(part, str) else _identity(part) for part in what]
    text = canonical([_question(block), *words])
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]))


def _identity(arm: Arm) -> str:
    return canonical(
        [arm.method, arm.spec.method_version, arm.spec.args, arm.spec.train.model_dump()]
    )


def _question(block: Block) -> list[str]:
    return [str(part) for part in (*vars(block.question).values(), block.place)]


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
    adjusted = holm(np.array([np.nan if pair.p is None else pair.p for pair in pairs]))
    worse = [pair.mean is not None and pair.mean < 0 for pair in pairs]
    return top if all(worse) and all(rejects(_known(p)) for p in adjusted) else None


def estimate(values: Values, rng: np.random.Generator) -> Estimate:
    """Mean, standard deviation and interval of one arm's value."""
    numbers, by_seed = values.numbers, values.by_example
    mean = float(numbers.mean())
    if not np.isfinite(mean):
        return Estimate(None, None, None)
    std = float(numbers.std(ddof=1)) if len(numbers) > 1 else None
    half = float(half_width(numbers, by_seed.scores() if by_seed else None))
    if not np.isfinite(half) or values.over is None:
        return Estimate(mean, std, None)
    low, high = mean - half, mean + half
    if by_seed:
        weights = example_weights(len(by_seed.ids), rng)
        draws = np.concatenate([by_seed.resampled(each) for each in weights])  # (B, S)
        low, high = lopsided(mean, half, _reseeded(draws, rng))
        low, high = max(low, by_seed.statistic.low), min(high, by_seed.statistic.high)
    return Estimate(mean, std, Interval(low, high, values.over))


@dataclass(frozen=True, eq=False)
class _Paired:
    """Two arms' values over shared seeds and examples, ours and theirs, positive is better."""

    sign: float
    ours: Values
    theirs: Values

    @classmethod
    def of(cls, ours: Values, theirs: Values, sign: float) -> "_Paired":
        seeds = tuple(seed for seed in ours.seeds if seed in set(theirs.seeds))
        places = [[side.seeds.index(seed) for seed in seeds] for side in (ours, theirs)]
        examples: Sequence[ByExample | None] = (None, None)
        numbers = [side.numbers[at] for side, at in zip((ours, theirs), places, strict=True)]
        if seeds and ours.by_example and theirs.by_example:
            ids, other = ours.by_example.ids, theirs.by_example.ids
            ids = ids if ids.equals(other) else ids.intersection(other, sort=False)
            if len(ids):
                both = (ours.by_example.at(places[0], ids), theirs.by_example.at(places[1], ids))
                examples, numbers = both, [side.values() for side in both]
        return cls(
            sign, Values(seeds, numbers[0], examples[0]), Values(seeds, numbers[1], examples[1])
        )

    @cached_property
    def numbers(self) -> Array:
        """The difference of each seed, (S,)."""
        return self.sign * (self.ours.numbers - self.theirs.numbers)

    @cached_property
    def mean(self) -> float | None:
        return _known(self.numbers.mean()) if len(self.numbers) else None

    @cached_property
    def scores(self) -> Array | None:
        """The difference of each seed and example, (S, N)."""
        if self.ours.by_example is None or self.theirs.by_example is None:
            return None
        return self.sign * (self.ours.by_example.scores() - self.theirs.by_example.scores())

    @cached_property
    def p(self) -> float | None:
        if self.mean is None:
            return None
        by_seed, scores = self.ours.by_example, self.scores
        one_seed = len(self.numbers) == 1
        if one_seed and by_seed and by_seed.statistic is MEAN and scores is not None:
            return sign_test(scores)
        return _known(p_value(self.numbers, self.scores))

    def interval(self, rng: np.random.Generator) -> Interval | None:
        assert self.mean is not None
        half = float(half_width(self.numbers, self.scores))
        if not np.isfinite(half) or self.ours.over is None:
            return None
        low, high = self.mean - half, self.mean + half
        if self.ours.by_example and self.theirs.by_example:
            sides = self.ours.by_example, self.theirs.by_example
            chunks = example_weights(len(sides[0].ids), rng)
            draws = [sides[0].resampled(each) - sides[1].resampled(each) for each in chunks]
            resampled = _reseeded(self.sign * np.concatenate(draws), rng)
            low, high = lopsided(self.mean, half, resampled)
        return Interval(low, high, self.ours.over)

    def difference(self, rng: np.random.Generator, p_holm: float | None) -> Difference:
        seeds = len(self.numbers)
        if self.mean is None:
            return Difference(seeds)
        ours, theirs = self.sign * self.ours.numbers, self.sign * self.theirs.numbers
        return Difference(
            seeds=seeds,
            difference=self.mean,
            interval=self.interval(rng),
            p=self.p,
            p_holm=p_holm,
            p_flip=sign_flip(self.numbers),
            improvement=improvement(ours, theirs),
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
