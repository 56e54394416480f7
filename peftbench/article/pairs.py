"""Which arms are compared with which, and effects over the seeds that both have."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from peftbench.analysis.blocks import Arm, Block, Run
from peftbench.analysis.estimates import Results
from peftbench.analysis.intervals import student_interval
from peftbench.analysis.measures import seed_ratios
from peftbench.article.claim import MIN_SEEDS, Comparison, Effect, above
from peftbench.wording import Words

VARIANTS = ("lora-fa", "vera", "delta-lora", "lora+")
SHAPE = ("rank", "targets")  # settings that two adapters of one shape share
Settings = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Pair:
    """Two arms of one block, each with its runs of the seeds that both have, in one order."""

    block: Block
    ours: Arm
    theirs: Arm

    @property
    def seeds(self) -> int:
        return len(self.ours.runs)

    @property
    def runs(self) -> tuple[Run, ...]:
        return (*self.ours.runs, *self.theirs.runs)

    @property
    def by_seed(self) -> Iterator[tuple[Run, Run]]:
        return zip(self.ours.runs, self.theirs.runs, strict=True)

    def ratios(self, name: str) -> list[float]:
        """Our measure by theirs for each seed where both are known."""
        return seed_ratios(self.ours.runs, self.theirs.runs, name)


def on_test(blocks: Iterable[Block]) -> list[Block]:
    """The blocks that claims rest on: what was scored on valid was run to tune."""
    return [block for block in blocks if block.question.split == "test"]


def pairs(
    blocks: Iterable[Block],
    method: str,
    reference: str,
    same: Sequence[str] = (),
    *,
    runs: Callable[[Arm], Iterable[Run]] = lambda arm: arm.done,
    usable: Callable[[Settings, Settings], bool] = lambda ours, theirs: True,
) -> list[Pair]:
    """For each block the pair of arms of the two methods that compares best.

    Both agree in the settings `same`; tuned arms go before others, then more equal settings, then
    more shared seeds, then the order of the block. No score has a part in the choice. runs: those
    of an arm that may be compared; usable: what else the settings of the two must fulfil.
    """
    best = [_best(block, method, reference, same, runs, usable) for block in on_test(blocks)]
    return [pair for pair in best if pair]


def _best(
    block: Block,
    method: str,
    reference: str,
    same: Sequence[str],
    runs: Callable[[Arm], Iterable[Run]],
    usable: Callable[[Settings, Settings], bool],
) -> Pair | None:
    ours, theirs = (
        [Arm(arm.label, tuple(runs(arm))) for arm in block.arms if arm.method == name]
        for name in (method, reference)
    )
    candidates = [
        _shared(block, one, other)
        for one in ours
        for other in theirs
        if one.runs and other.runs
        if all(one.settings.get(name) == other.settings.get(name) for name in same)
        if usable(one.settings, other.settings)
    ]
    return max((pair for pair in candidates if pair.seeds), key=_rank, default=None)


def _rank(pair: Pair) -> tuple[int, int, int]:
    ours, theirs = pair.ours.settings, pair.theirs.settings
    tuned = sum(trials(arm) is not None for arm in (pair.ours, pair.theirs))
    equal = sum(name in theirs and ours[name] == theirs[name] for name in ours)
    return tuned, equal, pair.seeds


def _shared(block: Block, ours: Arm, theirs: Arm) -> Pair:
    """The seeds that both arms ran, on the same examples where those are known."""
    by_seed = {run.seed: run for run in theirs.runs}
    both = [
        (run, other)
        for run in ours.runs
        if (other := by_seed.get(run.seed)) and _same_examples(run, other)
    ]
    mine, others = (tuple(runs[side] for runs in both) for side in (0, 1))
    return Pair(block, Arm(ours.label, mine), Arm(theirs.label, others))


def _same_examples(run: Run, other: Run) -> bool:
    ours, theirs = run.record.data, other.record.data
    return ours is None or theirs is None or ours.fingerprint == theirs.fingerprint


def trials(arm: Arm) -> int | None:
    """How many trials tuned an arm; None if it was not tuned, or its runs disagree."""
    counts = {run.trials for run in arm.runs}
    return counts.pop() if len(counts) == 1 else None


def equally_tuned(candidates: Iterable[Pair]) -> list[Pair]:
    """The pairs whose arms were both tuned, with equally many trials."""
    return [
        pair
        for pair in candidates
        if (count := trials(pair.ours)) is not None and count == trials(pair.theirs)
    ]


def metric(run: Run) -> float | None:
    return run.value("metric")


def learned(block: Block, arm: Arm) -> bool:
    """Whether an arm scores above the frozen model: paired interval over MIN_SEEDS seeds or more,
    all of it above zero.

    That two arms are alike, or that one is steady, says nothing where nothing was learned.
    """
    floor = block.first("frozen")
    if floor is None:
        return False
    pair = _shared(block, Arm(arm.label, arm.done), Arm(floor.label, floor.done))
    gain = mean(less(metric(run), metric(other)) for run, other in pair.by_seed)
    return gain is not None and gain.low > 0


def both_learned(pair: Pair) -> bool:
    return learned(pair.block, pair.ours) and learned(pair.block, pair.theirs)


def sound(candidates: Iterable[Pair]) -> list[Pair]:
    """The pairs with enough seeds of which one arm at least learned something."""
    return [
        pair
        for pair in candidates
        if pair.seeds >= MIN_SEEDS
        and (learned(pair.block, pair.ours) or learned(pair.block, pair.theirs))
    ]


def compare_quality(
    results: Results, candidates: Iterable[Pair], margin: float
) -> list[tuple[Pair, Comparison]]:
    """Whether the primary metric is at least `margin` above the other's, pair by pair, with
    intervals over seeds and examples; sound pairs with a known interval only."""
    judged: list[tuple[Pair, Comparison]] = []
    for pair in sound(candidates):
        differences = results.differences(pair.block, pair.theirs, "metric", [pair.ours])
        difference = differences[pair.ours]
        if difference.difference is not None and (interval := difference.interval):
            effect = Effect(difference.difference, interval.low, interval.high)
            judged.append((pair, Comparison(above(effect, margin), effect, pair.runs)))
    return judged


# -- effects -----------------------------------------------------------------------------------


def mean(values: Iterable[float | None], least: int = MIN_SEEDS) -> Effect | None:
    """The mean over seeds with Student's interval; None with fewer than `least` known values."""
    numbers = np.array([value for value in values if value is not None])
    interval = student_interval(numbers) if len(numbers) >= least else None
    return interval and _between(float(numbers.mean()), *interval)


def mean_ratio(ratios: Iterable[float | None], least: int = MIN_SEEDS) -> Effect | None:
    """The geometric mean over seeds with Student's interval of its logarithm."""
    logs = mean((math.log(ratio) if ratio else None for ratio in ratios), least)
    return logs and Effect(*map(math.exp, logs))


def less(value: float | None, other: float | None) -> float | None:
    """The difference of what is known."""
    return None if value is None or other is None else value - other


def exact(values: Iterable[float | None]) -> Effect | None:
    """What is counted and not estimated: mean, least and greatest; None if nothing is known."""
    numbers = [value for value in values if value is not None]
    if not numbers:
        return None
    return _between(sum(numbers) / len(numbers), min(numbers), max(numbers))


def _between(value: float, low: float, high: float) -> Effect:
    """An effect whose value rounding has not put outside its interval."""
    return Effect(min(max(value, low), high), low, high)


# -- what is missing ---------------------------------------------------------------------------


def lack(
    candidates: Sequence[Pair], ours: str | Words, theirs: str, need: int | None = None
) -> Words:
    """Why no pair can be judged; need: the seeds that a rule asks for."""
    most = max((pair.seeds for pair in candidates), default=0)
    if not most:
        text = Words(
            "no runs of {0} and {1} on a test split are done and comparable",
            "没有 {0} 与 {1} 在测试集上已完成且可比的运行",
        )
    elif need and most < need:
        text = Words(
            "it takes {2} seeds that both {0} and {1} have, and there are at most {3}",
            "需要 {0} 与 {1} 共有 {2} 个种子,目前最多 {3} 个",
        )
    elif need == MIN_SEEDS:
        text = Words(
            "in no block with enough seeds do {0} and {1} score above the frozen model as the rule"
            " asks and differ by a known interval",
            "种子足够的分组中,{0} 与 {1} 未按规则要求胜过冻结模型,或其差异没有可知的区间",
        )
    else:
        text = Words("the records lack the numbers", "记录中缺少所需数值")
    return text.format(ours, theirs, need, most)
