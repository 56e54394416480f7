"""Training step by step: smoothed and final losses, and the steps to a loss."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from peftbench.analysis.blocks import Run
from peftbench.analysis.intervals import Array

Loss = Literal["train_loss", "valid_loss"]
TAIL = 0.1  # of a curve: its end, and the window that smooths it
POINTS = 10  # of a curve: with fewer it is not judged


@dataclass(frozen=True, eq=False)
class Curve:
    """Losses, nll per supervised token, after the steps at which they were taken."""

    steps: Array  # (n,)
    losses: Array  # (n,)

    @property
    def long_enough(self) -> bool:
        return len(self.losses) >= POINTS

    def smoothed(self, width: int | None = None) -> "Curve":
        """Means of each loss and its neighbours, `width` (odd; None: TAIL of the curve) in all and
        as many on both sides, so that a straight line stays what it is; shorter by what lacks
        neighbours."""
        width = width or window(len(self.losses))
        if len(self.losses) < width:
            return Curve(self.steps[:0], self.losses[:0])
        half = width // 2
        means = np.lib.stride_tricks.sliding_window_view(self.losses, width).mean(1)
        return Curve(self.steps[half : len(self.steps) - half], means)

    def end(self) -> float | None:
        """The mean loss over the last TAIL of the curve, one point at least; None without any."""
        count = math.ceil(TAIL * len(self.losses))
        return float(self.losses[-count:].mean()) if count else None


@dataclass(frozen=True)
class StepsToLoss:
    """The first step after which a loss is reached; `never`: it is not, and `steps` is one past the
    last that was seen."""

    steps: float
    never: bool


def window(points: int) -> int:
    """The odd number of points nearest to TAIL of them, one at least."""
    return int(TAIL * points) // 2 * 2 + 1


def curve(run: Run, loss: Loss) -> Curve:
    """A run's losses of one kind; of two points of one step the last that has one counts."""
    points = run.record.curve
    values = {point.step: value for point in points if (value := getattr(point, loss)) is not None}
    return Curve(np.array(list(values), float), np.array(list(values.values()), float))


def steps_to_reach(ours: Curve, theirs: Curve, points: int = POINTS) -> StepsToLoss | None:
    """The steps after which our smoothed loss is first as low as theirs is at half of its steps;
    None where a curve has fewer points than `points`, one at least.

    At half, because at the end schedules have brought all curves to rest: who is ahead all the way
    and ends at the same loss would seem no faster. Theirs reaches itself there at the latest.
    """
    if min(len(ours.losses), len(theirs.losses)) < points:
        return None
    mine, other = ours.smoothed(), theirs.smoothed()
    target = other.losses[np.argmax(other.steps >= theirs.steps[-1] / 2)]
    reached = np.flatnonzero(mine.losses <= target)
    if reached.size:
        return StepsToLoss(float(mine.steps[reached[0]]), never=False)
    return StepsToLoss(float(mine.steps[-1]) + 1, never=True)
