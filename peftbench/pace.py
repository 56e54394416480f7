"""How long runs will take, by those like them that have ended."""

from bisect import insort
from collections import defaultdict
from collections.abc import Iterable, Mapping

from peftbench.record import Record
from peftbench.spec import RunSpec

Arm = tuple[str, str, str]  # model, task, method


def arm_of(spec: RunSpec) -> Arm:
    """What makes runs alike: they differ in little that takes time."""
    return spec.model, spec.task, spec.method


class Pace:
    """What runs took. Of one that is to come those of its arm say it, else those on the same model
    and task."""

    def __init__(self, *, guess: bool = False) -> None:
        """guess: where nothing like it has ended, all runs say it; else it is not known."""
        self._guess = guess
        self._seconds: defaultdict[tuple[str, ...], list[float]] = defaultdict(list)  # in order

    def add(self, record: Record) -> None:
        """Count a run that has ended."""
        for key in self._keys(arm_of(record.spec)):
            insort(self._seconds[key], record.seconds)

    def left(self, arm: Arm, gone_seconds: float = 0.0) -> float | None:
        """Seconds that a run will still take after so many: what the runs most alike took, in the
        middle. None: not known."""
        taken = next((self._seconds[key] for key in self._keys(arm) if key in self._seconds), None)
        if taken is None:
            return None
        median = (taken[(len(taken) - 1) // 2] + taken[len(taken) // 2]) / 2
        return max(0.0, median - gone_seconds)

    def one_by_one(self, waiting: Mapping[Arm, int]) -> float | None:
        """Seconds of so many runs of each arm together. None: of some nothing is known."""
        each = [(self.left(arm), runs) for arm, runs in waiting.items() if runs]
        known = [seconds * runs for seconds, runs in each if seconds is not None]
        return sum(known) if len(known) == len(each) else None

    def until_all_end(
        self, waiting: Mapping[Arm, int], begun: Iterable[tuple[Arm, float]], places: int
    ) -> float | None:
        """Seconds until the last run has ended: at least as many as the longest one has left. None:
        of some nothing is known.

        waiting: how many runs of each arm are not begun. begun: the arm of each run in progress,
        and the seconds since it began. places: how many runs there are at a time.
        """
        lefts = [self.left(arm, gone_seconds) for arm, gone_seconds in begun]
        longest = [*lefts, *(self.left(arm) for arm, runs in waiting.items() if runs)]
        known = [seconds for seconds in longest if seconds is not None]
        if len(known) < len(longest):
            return None
        together = sum(known[: len(lefts)]) + (self.one_by_one(waiting) or 0.0)
        return max([together / max(1, places), *known])

    def _keys(self, arm: Arm) -> list[tuple[str, ...]]:
        """What the runs were counted under, from the most alike to the least."""
        return [arm, arm[:2], *([()] if self._guess else [])]
