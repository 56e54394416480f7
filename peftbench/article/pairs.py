"""Which arms are compared with which, and effects over the seeds that both have."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from peftbench.analysis.blocks import Arm, Block, Run
from peftbench.analysis.intervals import student_interval
from peftbench.analysis.measures import seed_ratios
from peftbench.analysis.results import Results
from peftbench.article.claim import MIN_SEEDS, Case, Effect, above, bounded, compare, pooled
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


def runs_of(
    blocks: Iterable[Block],
    method: str,
    runs: Callable[[Arm], Iterable[Run]] = lambda arm: arm.done,
) -> list[list[Run]]:
    """A method's runs on test, by block. runs: those of an arm that count."""
    return [
        [run for arm in block.arms if arm.method == method for run in runs(arm)]
        for block in on_test(blocks)
    ]


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
    best: list[Pair] = []
    for block in on_test(blocks):
        candidates = [
            pair
            for ours in block.arms
            for theirs in block.arms
            if (ours.method, theirs.method) == (method, reference)
            and all(ours.settings.get(name) == theirs.settings.get(name) for name in same)
            and usable(ours.settings, theirs.settings)
            and (pair := _shared(block, ours, theirs, runs)).seeds
        ]
        if candidates:
            best.append(max(candidates, key=_rank))
    return best


def _rank(pair: Pair) -> tuple[int, int, int]:
    ours, theirs = pair.ours.settings, pair.theirs.settings
    tuned = sum(trials(arm) is not None for arm in (pair.ours, pair.theirs))
    equal = sum(name in theirs and theirs[name] == value for name, value in ours.items())
    return tuned, equal, pair.seeds


def _shared(block: Block, ours: Arm, theirs: Arm, runs: Callable[[Arm], Iterable[Run]]) -> Pair:
    """The seeds that both arms ran, on the same examples where those are known."""
    by_seed = {run.seed: run for run in runs(theirs)}
    both = [
        (run, other)
        for run in runs(ours)
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


def learned(block: Block, arm: Arm) -> bool:
    """Whether an arm scores above the frozen model: paired interval over MIN_SEEDS seeds or more,
    all of it above zero.

    That two arms are alike, or that one is steady, says nothing where nothing was learned.
    """
    floor = block.first("frozen")
    if floor is None:
        return False
    pair = _shared(block, arm, floor, lambda arm: arm.done)
    gain = mean(less(run.value("metric"), other.value("metric")) for run, other in pair.by_seed)
    return gain is not None and gain.low > 0


def learners(pair: Pair) -> int:
    """How many of the two arms learned something."""
    return learned(pair.block, pair.ours) + learned(pair.block, pair.theirs)


def sound(candidates: Iterable[Pair], least: int = 1) -> list[Pair]:
    """The pairs with enough seeds of which `least` arms learned something."""
    return [pair for pair in candidates if pair.seeds >= MIN_SEEDS and learners(pair) >= least]


# -- cases -------------------------------------------------------------------------------


def compare_quality(results: Results, candidates: Iterable[Pair], margin: float) -> list[Case]:
    """Whether the primary metric is at least `margin` above the other's, for sound pairs."""
    gains = ((pair.runs, gain(results, pair)) for pair in sound(candidates))
    return compare(gains, above, margin)


def gain(results: Results, pair: Pair) -> Effect | None:
    """How far our primary metric is above theirs, with its interval over seeds and examples."""
    difference = results.differences(pair.block, pair.theirs, "metric", [pair.ours])[pair.ours]
    if difference.difference is None or difference.interval is None:
        return None
    return Effect(difference.difference, difference.interval.low, difference.interval.high)


def mean(values: Iterable[float | None], least: int = MIN_SEEDS) -> Effect | None:
    """The mean over seeds with Student's interval; None with fewer than `least` known values."""
    numbers = np.array([value for value in values if value is not None])
    interval = student_interval(numbers) if len(numbers) >= least else None
    return interval and bounded(float(numbers.mean()), *interval)


def mean_ratio(ratios: Iterable[float | None], least: int = MIN_SEEDS) -> Effect | None:
    """The geometric mean over seeds with Student's interval of its logarithm."""
    logs = mean((math.log(ratio) if ratio else None for ratio in ratios), least)
    return logs and Effect(*map(math.exp, logs))


def exact(values: Iterable[float | None]) -> Effect | None:
    """What is counted and not estimated: mean, least and greatest; None if nothing is known."""
    return pooled([Effect(value, value, value) for value in values if value is not None])


def less(value: float | None, other: float | None) -> float | None:
    """The difference of what is known."""
    return None if value is None or other is None else value - other


# -- what is missing ---------------------------------------------------------------------------


def most_seeds(candidates: Iterable[Pair]) -> int:
    return max((pair.seeds for pair in candidates), default=0)


def lack(
    candidates: Sequence[Pair], ours: str | Words, theirs: str, need: int = MIN_SEEDS
) -> Words:
    """Why no pair can be judged; need: the seeds that a rule asks for, 1 for what is counted."""
    most = most_seeds(candidates)
    if not most:
        text = Words(
            "No runs of {0} and {1} on a test split are done and comparable",
            "没有 {0} 与 {1} 在测试集上已完成且可比的运行",
        )
    elif most < need:
        text = Words(
            "It takes {2} seeds that both {0} and {1} have, and there are at most {3}",
            "需要 {0} 与 {1} 共有 {2} 个种子,目前最多 {3} 个",
        )
    elif need == MIN_SEEDS:
        text = Words(
            "In no block with enough seeds do {0} and {1} score above the frozen model as the rule"
            " asks and differ by a known interval",
            "种子足够的分组中,{0} 与 {1} 未按规则要求胜过冻结模型,或其差异没有可知的区间",
        )
    else:
        text = Words("The records lack the numbers", "记录中缺少所需数值")
    return text.format(ours, theirs, need, most)
