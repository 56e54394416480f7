"""Many runs: order, resume, progress."""

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING

from peftbench.pace import Arm, Pace, arm_of
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
    seconds_left: float | None


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
    waiting, arms, pace, done = deque(specs), Counter(map(arm_of, specs)), Pace(guess=True), 0
    running: dict[Future[RunResult], tuple[Arm, float]] = {}  # since when, by time.monotonic()
    try:
        while waiting or running:
            # a cluster that has no place now may have one later
            while waiting and len(running) < max(1, executor.places()):
                spec = waiting.popleft()
                begin(spec)
                running[executor.submit(spec)] = arm_of(spec), time.monotonic()
                arms[arm_of(spec)] -= 1
            for future in _ended(running):
                del running[future]
                result = future.result()
                record = store.write(result.record, result.predictions)
                pace.add(record)
                done += 1
                now = time.monotonic()
                begun = [(arm, now - start) for arm, start in running.values()]
                left = pace.until_all_end(arms, begun, executor.places())
                end(Progress(record, done, len(specs), left))
    finally:
        executor.close()


def _ended(running: "Collection[Future[RunResult]]") -> "list[Future[RunResult]]":
    """Wait until one of them has ended, and return those that have, in their order."""
    ended = wait(running, return_when=FIRST_COMPLETED).done
    return [future for future in running if future in ended]
