"""Many runs: order, resume, progress."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from peftbench.record import Record
from peftbench.spec import RunSpec
from peftbench.store import Store

if TYPE_CHECKING:
    from peftbench.training.executor import Executor


@dataclass(frozen=True)
class Progress:
    """A run has ended: its record, how many are done, and an estimate of what is left."""

    record: Record
    done: int
    total: int
    seconds_left: float


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
    executor: "Executor",
    begin: Callable[[RunSpec], object],
    end: Callable[[Progress], object],
) -> list[Record]:
    """Carry out the specs in order and store what comes out. KeyboardInterrupt ends the run in
    progress, which leaves no record."""
    records: list[Record] = []
    try:
        for number, spec in enumerate(specs, 1):
            begin(spec)
            result = executor.submit(spec).result()
            records.append(store.write(result.record, result.predictions))
            end(Progress(records[-1], number, len(specs), _left(specs[number:], records)))
    finally:
        executor.close()
    return records


def _left(specs: Sequence[RunSpec], records: Sequence[Record]) -> float:
    """Seconds that `specs` will take: the mean of what ran on the same model and task, else of
    everything."""
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    for record in records:
        seconds[record.spec.model, record.spec.task].append(record.seconds)
    everything = [record.seconds for record in records]
    return sum(statistics.fmean(seconds[spec.model, spec.task] or everything) for spec in specs)
