"""What the store knows of the methods on a task, from the model whose size is nearest to one that
it knows nothing of."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from peftbench.analysis.blocks import Block
from peftbench.analysis.learning import learned
from peftbench.analysis.results import Results


@dataclass(frozen=True)
class Rank:
    """An arm of the nearest model, on the task's primary metric."""

    label: str
    mean: float
    low: float | None  # the mean's interval; None where nothing says how wide it is
    high: float | None
    seeds: int
    learned: bool | None  # above the frozen model and the best constant answer; None: not known


@dataclass(frozen=True)
class Nearest:
    """One block of the nearest model: arms, the best mean first."""

    model: str
    params: int
    metric: str
    ranks: tuple[Rank, ...]


def nearest(results: Results, task: str, params: int | None) -> Nearest | None:
    """Of the models with finished test runs on the task, the one whose number of parameters is
    nearest by ratio, and its block with most runs; where the number is not known, the largest.
    None: the store has none."""
    sizes = {
        block: size
        for block in results.final
        if block.question.split == "test"
        and block.question.task == task
        and (size := _params(block)) is not None
    }
    if not sizes:
        return None
    block = min(
        sizes,
        key=lambda b: (
            abs(math.log(sizes[b] / (params or 1e15))),
            -sum(len(arm.done) for arm in b.arms),
        ),
    )
    return Nearest(block.question.model, sizes[block], block.primary, tuple(_ranks(results, block)))


def _params(block: Block) -> int | None:
    """Of the plain model, as a record of the block says."""
    footprints = (run.record.footprint for arm in block.arms for run in arm.done)
    return next((each.total_params for each in footprints if each), None)


def _ranks(results: Results, block: Block) -> Sequence[Rank]:
    ranks = [
        Rank(
            arm.label,
            one.mean,
            one.interval.low if one.interval else None,
            one.interval.high if one.interval else None,
            len(arm.done),
            None if arm.method == "frozen" else learned(results, block, arm),
        )
        for arm, one in results.estimates(block, "metric").items()
        if one.mean is not None
    ]
    return sorted(ranks, key=lambda rank: -rank.mean)
