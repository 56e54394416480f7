"""Many runs: order, isolation, resume, progress."""

import multiprocessing
import multiprocessing.process
import os
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

from peftbench.record import Record, Status
from peftbench.spec import RunSpec
from peftbench.store import Store
from peftbench.training.run import Outcome, ended, run

GRACE_SECONDS = 10  # what a run has to end after it was asked to
# How long an idle thread of torch's spins before it sleeps. By default so long that two processes
# on the same cores stop each other; not at
# all, and small batches train no faster on two cores than on one.
SPINS = "1000"
PRELOADED = [
    "peftbench.training.run",
    "evaluate",
    "sklearn.metrics",
    "scipy.stats",
]  # the last three are slow, and imported where scores are made


Watch = Callable[[int, float], bool]  # (step, valid nll) -> whether the run may end there


class Executor(Protocol):
    """Where runs take place."""

    def submit(self, spec: RunSpec, watch: Watch | None = None) -> Future[Outcome]:
        """Begin a run; its outcome comes whatever happens to it. `watch` is asked at every
        validation, from another thread."""
        ...

    def close(self) -> None:
        """End the run in progress, if there is one."""
        ...


class LocalExecutor:
    """Fresh processes on this machine, one at a time. They are forked from a server that has
    imported torch and transformers and done nothing else, so that a start costs a fraction of a
    second and nothing of one run reaches the next."""

    def __init__(self, adapter_folder: Path | None = None) -> None:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        self._adapter_folder = adapter_folder
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)
        self._pool = ThreadPoolExecutor(1)
        self._process: multiprocessing.process.BaseProcess | None = None
        self._closed = threading.Event()

    def submit(self, spec: RunSpec, watch: Watch | None = None) -> Future[Outcome]:
        return self._pool.submit(self._run, spec, watch)

    def close(self) -> None:
        self._closed.set()
        if self._process is not None:
            _end(self._process)
        self._pool.shutdown(cancel_futures=True)

    def _run(self, spec: RunSpec, watch: Watch | None) -> Outcome:
        started, start = datetime.now(UTC), time.perf_counter()
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_work, args=(theirs, spec, self._adapter_folder, watch is not None), daemon=False
        )
        process.start()
        self._process = process
        theirs.close()
        status: Status = "failed"
        error = ""
        try:
            while ours.poll(max(0.0, start + spec.limits.seconds - time.perf_counter())):
                message = ours.recv()
                if isinstance(message, Outcome):
                    process.join(GRACE_SECONDS)
                    return message
                ours.send(watch is not None and watch(*message))
            status, error = "timed-out", f"not done after {spec.limits.seconds} s"
        except EOFError:
            process.join(GRACE_SECONDS)
            error = _how_it_ended(process.exitcode)
        finally:
            _end(process)
            ours.close()
        return Outcome(ended(spec, status, error, started, time.perf_counter() - start), None)


def _how_it_ended(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        hint = ", as the system does when memory runs out" if -exitcode == signal.SIGKILL else ""
        return f"the process was ended by {signal.Signals(-exitcode).name}{hint}"
    return f"the process ended with exit status {exitcode} and left no record"


def _end(process: multiprocessing.process.BaseProcess) -> None:
    """Terminate, and kill what does not heed it."""
    if process.is_alive():
        process.terminate()
        process.join(GRACE_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()


def _work(
    parent_end: Connection, spec: RunSpec, adapter_folder: Path | None, watched: bool
) -> None:
    """What the fresh process does. It ends with its parent, however that ends."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the whole group; the parent decides
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()

    def enough(step: int, valid_nll: float) -> bool:
        if not watched:
            return False
        parent_end.send((step, valid_nll))
        return parent_end.recv()

    parent_end.send(run(spec, adapter_folder, enough))


@dataclass(frozen=True)
class Progress:
    """A run has ended: its record, how many of how many are done, and seconds left by an estimate
    (None: nothing to go by)."""

    record: Record
    done: int
    total: int
    seconds_left: float | None


def pending(
    specs: Sequence[RunSpec], store: Store, folder: str, retry: frozenset[Status] = frozenset()
) -> list[RunSpec]:
    """The specs that the store has no record of from the device with this folder, or one with a
    status in `retry`, or that a search ended early."""
    known = store.statuses(folder)
    return [spec for spec in specs if known.get(spec.run_id, "pruned") in {*retry, "pruned"}]


def run_all(
    specs: Sequence[RunSpec],
    store: Store,
    executor: Executor,
    begin: Callable[[RunSpec], None],
    end: Callable[[Progress], None],
) -> list[Record]:
    """Carry out the specs in order and store what comes out. KeyboardInterrupt ends the run in
    progress, which leaves no record."""
    records: list[Record] = []
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    try:
        for number, spec in enumerate(specs, 1):
            begin(spec)
            outcome = executor.submit(spec).result()
            record = store.write(outcome.record, outcome.predictions)
            records.append(record)
            seconds[spec.model, spec.task].append(record.seconds)
            end(Progress(record, number, len(specs), _left(specs[number:], seconds)))
    finally:
        executor.close()
    return records


def _left(specs: Sequence[RunSpec], seconds: dict[tuple[str, str], list[float]]) -> float | None:
    """Seconds that `specs` will take: the mean of what ran on the same model and task, else of
    everything."""
    every = [value for values in seconds.values() for value in values]
    total = 0.0
    for spec in specs:
        values = seconds.get((spec.model, spec.task)) or every
        total += sum(values) / len(values)
    return total if every else None
