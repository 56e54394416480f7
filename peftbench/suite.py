"""Many runs: order, resume, progress."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from peftbench.record import Record
from peftbench.spec import RunSpec
from peftbench.store import Store
from peftbench.training.executor import Executor


@dataclass(frozen=True)
class Progress:
    """A run has ended: its record, how many of how many are done, and seconds left by an estimate
    (None: nothing to go by)."""

    record: Record
    done: int
    total: int
    seconds_left: float | None


def pending(
    specs: Sequence[RunSpec], store: Store, folder: str, retry: Collection[str] = ()
) -> list[RunSpec]:
    """The specs that the store has no record of from the device with this folder, or one with a
    status in `retry`, or that a search ended early."""

    def wanted(spec: RunSpec) -> bool:
        record = store.find(f"{folder}/{spec.run_id}")
        return record is None or record.status in {"pruned", *retry}

    return [*filter(wanted, specs)]


def run_all(
    specs: Sequence[RunSpec],
    store: Store,
    executor: Executor,
    begin: Callable[[RunSpec], object],
    end: Callable[[Progress], object],
) -> list[Record]:
    """Carry out the specs in order and store what comes out. KeyboardInterrupt ends the run in
    progress, which leaves no record."""
    records: list[Record] = []
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    try:
        for number, spec in enumerate(specs, 1):
            begin(spec)
            result = executor.submit(spec).result()
            record = store.write(result.record, result.predictions)
            records.append(record)
            seconds[spec.model, spec.task].append(record.seconds)
            end(Progress(record, number, len(specs), _left(specs[number:], seconds)))
    finally:
        executor.close()
    return records


def _left(specs: Sequence[RunSpec], seconds: dict[tuple[str, str], list[float]]) -> float | None:
    """Seconds that `specs` will take: the mean of what ran on the same model and task, else of
    everything."""
    all_seconds = [value for values in seconds.values() for value in values]
    if not all_seconds:
        return None
    return sum(
        statistics.fmean(seconds.get((spec.model, spec.task)) or all_seconds) for spec in specs
    )
