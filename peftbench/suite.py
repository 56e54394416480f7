"""Many runs: order, resume, progress."""

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING

from peftbench.record import Record
from peftbench.spec import RunSpec
from peftbench.store import Store

if TYPE_CHECKING:
    from peftbench.training.executor import Executor
    from peftbench.training.run import RunResult


@dataclass(frozen=True)
class Progress:
    """A run has ended: its record, how many are done, and an estimate of what is left."""

    record: Record
    done: int
    total: int
    seconds_left: float


def pending(
    specs: Sequence[RunSpec], store: Store, folder: str | None, retry: Collection[str] = ()
) -> list[RunSpec]:
    """The specs that the store has no record of from the device with this folder, or one with a
    status in `retry`, or that a search ended early. folder: None means any device."""

    def wanted(spec: RunSpec) -> bool:
        records = store.find_all(spec.run_id, folder)
        return all(record.status in {"pruned", *retry} for record in records)

    return [*filter(wanted, specs)]


def run_all(
    specs: Sequence[RunSpec],
    store: Store,
    executor: "Executor",
    begin: Callable[[RunSpec], object],
    end: Callable[[Progress], object],
) -> None:
    """Carry out the specs in order, as many at a time as the executor has places, and store what
    comes out of each as it ends. KeyboardInterrupt ends the runs in progress, which leave no
    record."""
    waiting, pace, done = deque(specs), _Pace(specs), 0
    running: dict[Future[RunResult], _Begun] = {}
    try:
        while waiting or running:
            # a cluster that has no place now may have one later
            while waiting and len(running) < max(1, executor.places()):
                spec = waiting.popleft()
                begin(spec)
                running[executor.submit(spec)] = pace.begin(spec)
            for future in _ended(running):
                del running[future]
                result = future.result()
                record = store.write(result.record, result.predictions)
                pace.end(record)
                done += 1
                left = pace.left(running.values(), executor.places())
                end(Progress(record, done, len(specs), left))
    finally:
        executor.close()


def _ended(running: "Collection[Future[RunResult]]") -> "list[Future[RunResult]]":
    """Wait until one of them has ended, and return those that have, in their order."""
    ended = wait(running, return_when=FIRST_COMPLETED).done
    return [future for future in running if future in ended]


Kind = tuple[str, str]  # model and task


def _kind(spec: RunSpec) -> Kind:
    return spec.model, spec.task


@dataclass(frozen=True)
class _Begun:
    """A run in progress."""

    kind: Kind
    start: float  # by time.monotonic()


class _Pace:
    """How long the runs will take, by those that have ended: those on the same model and task,
    else all."""

    def __init__(self, specs: Iterable[RunSpec]) -> None:
        self._waiting = Counter(map(_kind, specs))
        self._seconds: defaultdict[Kind | None, float] = defaultdict(float)
        self._ended: Counter[Kind | None] = Counter()

    def begin(self, spec: RunSpec) -> _Begun:
        self._waiting[_kind(spec)] -= 1
        return _Begun(_kind(spec), time.monotonic())

    def end(self, record: Record) -> None:
        for kind in (_kind(record.spec), None):
            self._seconds[kind] += record.seconds
            self._ended[kind] += 1

    def left(self, running: Iterable[_Begun], places: int) -> float:
        """Seconds until the last run has ended: at least as many as the longest one has left."""
        now = time.monotonic()
        waiting = {kind: self._mean(kind) for kind, runs in self._waiting.items() if runs}
        begun = [max(0.0, self._mean(run.kind) - (now - run.start)) for run in running]
        together = sum(begun) + sum(waiting[kind] * self._waiting[kind] for kind in waiting)
        return max([together / max(1, places), *waiting.values(), *begun])

    def _mean(self, kind: Kind) -> float:
        known = kind if self._ended[kind] else None
        return self._seconds[known] / self._ended[known]
