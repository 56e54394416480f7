"""Which arms are compared with which, and effects over the seeds that both have."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from peftbench.analysis.blocks import Arm, Block, Run, canonical, grouped
from peftbench.analysis.intervals import student_interval
from peftbench.analysis.measures import seed_ratios
from peftbench.article.claim import MIN_SEEDS, Effect, bounded, pooled
from peftbench.wording import Words

VARIANTS = ("lora-fa", "vera", "delta-lora", "lora+")
SHAPE = ("rank", "targets")  # settings that two adapters of one shape share
RATES = ("train.lr", "train.head_lr")  # what every search tunes: that two are equal is no likeness
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
    fair: Callable[[Arm, Arm], bool] = lambda ours, theirs: True,
) -> list[Pair]:
    """For each block the pair of arms of the two methods that compares best.

    Both agree in the settings `same`; tuned arms go before others, then more equal settings but for
    learning rates, then more shared seeds, then the order of the block. No score has a part in the
    choice. runs: those of an arm that may be compared; usable: what else the settings of the two
    must fulfil; fair: how they must have been tuned.
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
            and fair(ours, theirs)
            and (pair := _shared(block, ours, theirs, runs)).seeds
        ]
        if candidates:
            best.append(max(candidates, key=_rank))
    return best


def _rank(pair: Pair) -> tuple[int, int, int]:
    ours, theirs = pair.ours.settings, pair.theirs.settings
    tuned = sum(trials(arm) is not None for arm in (pair.ours, pair.theirs))
    equal = sum(
        name not in RATES and name in theirs and theirs[name] == value
        for name, value in ours.items()
    )
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


def equally_tuned(ours: Arm, theirs: Arm) -> bool:
    """Whether every run of both arms had as many trials as every other; none counts as a number."""
    return len({run.trials for run in (*ours.runs, *theirs.runs)}) == 1


def both_tuned(ours: Arm, theirs: Arm) -> bool:
    return equally_tuned(ours, theirs) and trials(ours) is not None


def once_for_each_model(candidates: Iterable[Pair]) -> list[Pair]:
    """What follows from structure alone counts once: the first pair of each model and settings."""
    return [same[0] for same in grouped(candidates, _structure).values()]


def _structure(pair: Pair) -> tuple[str, str]:
    args = [arm.spec.args for arm in (pair.ours, pair.theirs)]
    return pair.block.question.model, canonical(args)


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

UNEQUAL_TUNING = Words(
    "No block has runs of both {0} and {1} that were tuned with equally many trials",
    "没有 {0} 与 {1} 以相同试验次数调参的分组",
)


def most_seeds(candidates: Iterable[Pair]) -> int:
    return max((pair.seeds for pair in candidates), default=0)


def lack(
    candidates: Sequence[Pair],
    ours: str | Words,
    theirs: str,
    need: int = MIN_SEEDS,
    unfair: Sequence[Pair] = (),
) -> Words:
    """Why no pair can be judged. need: the seeds that a rule asks for, 1 for what is counted;
    unfair: pairs of other arms that were not tuned alike."""
    most = most_seeds(candidates)
    if not most and unfair:
        text = UNEQUAL_TUNING
    elif not most:
        text = Words(
            "No runs of {0} and {1} on a test split are done and comparable",
            "没有 {0} 与 {1} 在测试集上已完成且可比的运行",
        )
    elif most < need:
        text = Words(
            "It takes {2} seeds that both {0} and {1} have, and there are at most {3}",
            "需要 {0} 与 {1} 共有 {2} 个种子,目前最多 {3} 个",
        )
    elif need > 1:
        text = Words(
            "In no block with enough seeds did {0} and {1} learn what the rule asks for and differ"
            " by a known interval",
            "种子足够的分组中,{0} 与 {1} 未达到规则要求的学习效果,或其差异没有可知的区间",
        )
    else:
        text = Words("The records lack the numbers", "记录中缺少所需数值")
    return text.format(ours, theirs, need, most)
