"""How much a method's result depends on its learning rate: medians per learning rate, and the range
in which it is nearly as good as at its best."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from peftbench.analysis.blocks import Arm, Block, Run, Value, grouped
from peftbench.record import Status

PER_DECADE = 4  # bins; fewer learning rates than that are bins of their own
TOLERANCE = 0.02  # of the nll, relative: as much above the best is nearly as good
WORST: dict[Value, float] = {"metric": -math.inf, "nll": math.inf}  # what a diverged run counts as


@dataclass(frozen=True)
class Middle:
    """The median of runs, infinite where one of its middle two diverged, and the smallest and
    largest value of those that are done; None where there is none."""

    median: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, eq=False)
class LearningRate:
    """The runs of a method at one learning rate, or at several close to each other."""

    lr: float
    runs: Sequence[Run]

    def count(self, status: Status) -> int:
        return sum(run.record.status == status for run in self.runs)

    def middle(self, name: Value) -> Middle:
        """A run that diverged counts as worse than all others; one that was ended early counts in
        no median: what it would have reached is unknown."""
        known = [value for run in self.runs if run.done and (value := run.value(name)) is not None]
        counted = [*known, *[WORST[name]] * self.count("diverged")]
        middle = median(counted) if counted else None
        return Middle(middle, min(known, default=None), max(known, default=None))


ByArm = dict[Arm, list[LearningRate]]


@dataclass(frozen=True)
class Region:
    """Learning rates nearly as good as the best; open: it ends where no more were tried."""

    low: float
    high: float
    open_low: bool
    open_high: bool
    best: float

    @property
    def decades(self) -> float:
        return math.log10(self.high / self.low)


def bins(lrs: Sequence[float], per_decade: int = PER_DECADE) -> list[float]:
    """The learning rate that stands for each: itself where few were tried, else the geometric mean
    of all in its part of a decade."""
    logs = np.log10(lrs)
    if len(set(lrs)) <= per_decade * (logs.max() - logs.min()) + 1.5:
        return [float(lr) for lr in lrs]
    places = np.round(logs * per_decade)
    means = {place: float(10 ** logs[places == place].mean()) for place in set(places)}
    return [means[place] for place in places]


def by_learning_rate(block: Block) -> ByArm:
    """For each method of a block, all its runs as one arm, its learning rates in their order."""
    by_arm: ByArm = {}
    for method, runs in grouped(block.runs, lambda run: run.method).items():
        lr_of = dict(zip(runs, bins([run.record.spec.train.lr for run in runs]), strict=True))
        by_lr = sorted(grouped(runs, lr_of.__getitem__).items())
        by_arm[Arm(method, tuple(runs))] = [LearningRate(lr, same) for lr, same in by_lr]
    return by_arm


def good_region(
    lrs: Sequence[float], nll: Sequence[float | None], tolerance: float = TOLERANCE
) -> Region | None:
    """The learning rates around the best one whose nll is at most `tolerance` (relative) above the
    best; None if no nll is finite.

    Between learning rates that were tried, nll is taken to run straight over the logarithm; towards
    one that diverged nothing is assumed, and the region ends before it. Unknown values are left
    out.
    """
    pairs = sorted(
        (math.log10(lr), value) for lr, value in zip(lrs, nll, strict=True) if value is not None
    )
    if not any(math.isfinite(value) for _, value in pairs):
        return None
    best = min(range(len(pairs)), key=lambda i: pairs[i][1])
    limit = pairs[best][1] * (1 + tolerance)
    low, open_low = _end(pairs[best::-1], limit)
    high, open_high = _end(pairs[best:], limit)
    return Region(10**low, 10**high, open_low, open_high, 10 ** pairs[best][0])


def _end(pairs: Sequence[tuple[float, float]], limit: float) -> tuple[float, bool]:
    """Where the values, followed from the first, rise above `limit`, and whether they never do."""
    for (x, a), (y, b) in itertools.pairwise(pairs):
        if b > limit:
            return (x + (limit - a) / (b - a) * (y - x), False) if math.isfinite(b) else (x, False)
    return pairs[-1][0], True
