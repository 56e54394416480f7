"""Where runs take place: a process of its own for each."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import SimpleQueue
from typing import Protocol

from peftbench.spec import RunSpec
from peftbench.training import processes
from peftbench.training.environment import choose_device, describe_environment
from peftbench.training.loop import Watch
from peftbench.training.run import RunResult, make_record, run
from peftbench.training.scoring import Scored, Scoring, score_apart
from peftbench.training.shares import Share
from peftbench.training.shares import shares as shares_of_places

Runner = Callable[..., RunResult]  # with the arguments of `run`

SCORING = 0.8  # of the time that a run has left, its scores may take; what follows is short
LONGEST_WAIT = 86_400.0  # seconds at a time: the system counts milliseconds in 32 bits


class Executor(Protocol):
    """Where runs take place."""

    def submit(self, spec: RunSpec, watch: Watch | None = None) -> Future[RunResult]:
        """Begin a run, or let it wait for a place; its result comes whatever happens to it. `watch`
        is asked at every validation, from another thread, and says whether the run may end
        there."""
        ...

    def places(self) -> int:
        """How many runs there can be in progress at a time, now."""
        ...

    def close(self) -> None:
        """End the runs in progress."""
        ...


class LocalExecutor:
    """Fresh processes on this machine; nothing of one run reaches another."""

    def __init__(
        self,
        adapter_folder: Path | None = None,
        *,
        unconfined: bool = False,
        places: int = 1,
        shares: Sequence[Share] | None = None,
        runs_at_once: int | None = None,
        runner: Runner = run,
    ) -> None:
        """adapter_folder, unconfined: as in `run`. places: how many runs at a time. shares: what
        each of them has of the machine; None: its own GPU or cores, where there are several.
        runs_at_once: how many runs the machine has at a time in all; None: no others. runner: what
        carries out a spec in the fresh process. Raises InputError where there are fewer GPUs or
        cores than places."""
        self._shares = tuple(shares_of_places(places) if shares is None else shares)
        self._runs_at_once = runs_at_once or len(self._shares)
        self._arguments = (runner, adapter_folder, unconfined)
        self._pool = ThreadPoolExecutor(len(self._shares))
        self._free: SimpleQueue[Share] = SimpleQueue()
        for share in self._shares:
            self._free.put(share)
        self._lock = threading.Lock()  # held while a process is started, and by `close`
        self._processes: set[BaseProcess] = set()
        self._closed = False

    def submit(self, spec: RunSpec, watch: Watch | None = None) -> Future[RunResult]:
        return self._pool.submit(self._run, spec, watch)

    def places(self) -> int:
        return len(self._shares)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            in_progress = [*self._processes]
        for process in in_progress:
            process.terminate()
        for process in in_progress:
            processes.end(process)
        self._pool.shutdown(cancel_futures=True)

    def _run(self, spec: RunSpec, watch: Watch | None) -> RunResult:
        """A run in one of the places."""
        share = self._free.get()
        try:
            result = self._in_a_process(spec, watch, share)
        finally:
            self._free.put(share)
        environment = result.record.environment
        environment = environment.model_copy(update={"runs_at_once": self._runs_at_once})
        record = result.record.model_copy(update={"environment": environment})
        return RunResult(record, result.predictions)

    def _in_a_process(self, spec: RunSpec, watch: Watch | None, share: Share) -> RunResult:
        started, start = datetime.now(UTC), time.perf_counter()
        end = start + spec.limits.seconds
        process, ours = self._start(spec, share)
        try:
            while _answers(ours, end):
                message = ours.recv()
                if isinstance(message, RunResult):
                    process.join(processes.GRACE_SECONDS)
                    return message
                if isinstance(message, Scoring):
                    ours.send(score_apart(message, SCORING * (end - time.perf_counter()), ours))
                else:
                    ours.send(watch is not None and watch(*message))
            error = f"not done after {spec.limits.seconds} s"
            outcome = {"status": "timed-out", "error": error}
        except (EOFError, ConnectionError):  # it ended while it was asked, or while it asked
            outcome = {"status": "failed", "error": processes.how_it_ended(process)}
        finally:
            processes.end(process)
            self._processes.discard(process)
            ours.close()
        environment = describe_environment(choose_device(), threads=share.threads)
        return RunResult(make_record(spec, started, start, environment, outcome), None)

    def _start(self, spec: RunSpec, share: Share) -> tuple[BaseProcess, Connection]:
        """A process that carries out the run, which `close` ends."""
        with self._lock:
            if self._closed:
                raise CancelledError
            process, ours = processes.start(_work, share, spec, *self._arguments)
            self._processes.add(process)
        return process, ours


def _answers(connection: Connection, end: float) -> bool:
    """Wait until there is something to receive, or until `end` on time.perf_counter()."""
    while not connection.poll(min(LONGEST_WAIT, max(0.0, end - time.perf_counter()))):
        if time.perf_counter() >= end:
            return False
    return True


def _work(
    parent_end: Connection,
    share: Share,
    spec: RunSpec,
    runner: Runner,
    adapter_folder: Path | None,
    unconfined: bool,
) -> None:
    """What the fresh process does: it keeps to its share of the machine, asks whether to go on, has
    its answers scored, and leaves a result."""
    share.take()

    def ask(step: int, valid_nll: float) -> bool:
        parent_end.send((step, valid_nll))
        return parent_end.recv()

    def scores_of(scoring: Scoring) -> Scored:
        parent_end.send(scoring)
        return parent_end.recv()

    parent_end.send(runner(spec, adapter_folder, ask, scores_of, unconfined=unconfined))
