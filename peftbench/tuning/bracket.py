"""The search of one number: a few values spread over its range, then golden sections on both sides
of the best one.

What a trial draws is a function of its number and of the results of earlier rounds. The trials of a
round do not know each other's results: they run side by side, and an interrupted search goes on
with the values that it would have drawn.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from optuna.samplers import BaseSampler

from peftbench.methods.base import Range
from peftbench.tuning.space import place_in

COARSE = 3  # trials of the first round: in the middle of equal parts of the range
SECTION = (3 - math.sqrt(5)) / 2  # of the way from the best value to its neighbour: golden section
FINEST = 1e-3  # of the range's width: what lies closer together is told apart no more
Tried = Sequence[tuple[float, float]]  # a value and its nll; infinite if it led to none


def round_start(number: int, first_trials: int) -> int:
    """The number of the first trial in a trial's round. After the first round they have two each,
    and begin anew where ranges may have been widened, after `first_trials`."""
    coarse = min(COARSE, first_trials)
    if number < coarse:
        return 0
    begin = first_trials if number >= first_trials else coarse
    return begin + (number - begin) // 2 * 2


def bracketed(
    dimension: Range, number: int, first_trials: int, tried: Tried, own: float | None = None
) -> float:
    """What a trial draws.

    number: its place in the study, from 0; first_trials: as in `round_start`.
    tried: what came out of the trials before it, in order; those of its own round do not count and
        may be lacking.
    own: what the arm has without a search, which the first trial tries.
    """
    start = round_start(number, first_trials)
    if start == 0:
        return _coarse_values(dimension, own, first_trials)[number]
    return next_values(dimension, tried[:start], number - start + 1)[-1]


def _coarse_values(dimension: Range, own: float | None, first_trials: int) -> list[float]:
    """The values of the first round; the arm's own comes first, in place of the nearest other."""
    parts = min(COARSE, first_trials)
    values = [_value_at(dimension, (2 * part + 1) / (2 * parts)) for part in range(parts)]
    if own is None:
        return values
    nearest = min(
        values, key=lambda value: abs(place_in(dimension, value) - place_in(dimension, own))
    )
    return [own, *(value for value in values if value != nearest)]


def next_values(dimension: Range, tried: Tried, count: int) -> list[float]:
    """The next `count` values of one round, none of which was tried.

    On each side of the best value: the golden section towards its neighbour, first where that is
    the better one; where nothing was tried beyond the best, the range's end. Where there is no best
    value, or its neighbours are too close, the middle of the widest part of the range in which
    nothing was tried.
    """
    nlls = {place_in(dimension, value): nll for value, nll in tried}
    places = [place for place in _around_best(nlls) if place not in nlls][:count]
    while len(places) < count:
        places.append(_middle_of_widest([*nlls, *places]))
    return [_value_at(dimension, place) for place in places]


def _around_best(nlls: dict[float, float]) -> list[float]:
    """The two golden sections, or one where the best is an end of the range; none if nothing has
    an nll. nlls: by place, the earliest first."""
    best = min(nlls, key=lambda place: nlls[place])
    if math.isinf(nlls[best]):
        return []
    below = max((place for place in nlls if place < best), default=None)
    above = min((place for place in nlls if place > best), default=None)
    sections: list[tuple[float, float, float]] = []  # the neighbour's nll, minus its distance
    for neighbour, end in ((below, 0.0), (above, 1.0)):
        if neighbour is not None:
            nll, section = nlls[neighbour], best + SECTION * (neighbour - best)
        else:
            nll, neighbour, section = math.inf, end, end
        distance = abs(neighbour - best)
        if distance > FINEST:
            sections.append((nll, -distance, section))
    return [section for _, _, section in sorted(sections)]


def _middle_of_widest(places: Sequence[float]) -> float:
    """The middle of the widest part of 0 to 1 between places, the lowest of several."""
    marks = sorted({0.0, *places, 1.0})
    widest = max(range(len(marks) - 1), key=lambda i: marks[i + 1] - marks[i])
    return (marks[widest] + marks[widest + 1]) / 2


def _value_at(dimension: Range, place: float) -> float:
    """The value at a place between the low end, 0, and the high end, 1."""
    if dimension.log:
        low, high = math.log(dimension.low), math.log(dimension.high)
        value = math.exp(low + place * (high - low)) if place < 1 else dimension.high
    else:
        value = dimension.low + place * (dimension.high - dimension.low)
    return min(max(value, dimension.low), dimension.high)


@dataclass(frozen=True)
class ValueSampler(BaseSampler):
    """Gives a trial this value, whatever it draws."""

    value: float

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
        return {}

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: Any, trial: Any, param_name: str, param_distribution: Any
    ) -> float:
        return self.value
