"""Where runs take place: a process of its own for each."""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Protocol

from peftbench.spec import RunSpec
from peftbench.training import processes
from peftbench.training.environment import choose_device, describe_environment
from peftbench.training.loop import Watch
from peftbench.training.run import RunResult, make_record, run
from peftbench.training.scoring import Scored, Scoring, score_apart

SCORING = 0.8  # of the time that a run has left, its scores may take; what follows is short
LONGEST_WAIT = 86_400.0  # seconds at a time: the system counts milliseconds in 32 bits


class Executor(Protocol):
    """Where runs take place."""

    def submit(self, spec: RunSpec, watch: Watch | None = None) -> Future[RunResult]:
        """Begin a run; its result comes whatever happens to it. `watch` is asked at every
        validation, from another thread, and says whether the run may end there."""
        ...

    def close(self) -> None:
        """End the run in progress, if there is one."""
        ...


class LocalExecutor:
    """Fresh processes on this machine, one at a time; nothing of one run reaches the next."""

    def __init__(self, adapter_folder: Path | None = None, *, unconfined: bool = False) -> None:
        """adapter_folder, unconfined: as in `run`."""
        self._adapter_folder = adapter_folder
        self._unconfined = unconfined
        self._pool = ThreadPoolExecutor(1)
        self._process: BaseProcess | None = None

    def submit(self, spec: RunSpec, watch: Watch | None = None) -> Future[RunResult]:
        return self._pool.submit(self._run, spec, watch)

    def close(self) -> None:
        if self._process is not None:
            processes.end(self._process)
        self._pool.shutdown(cancel_futures=True)

    def _run(self, spec: RunSpec, watch: Watch | None) -> RunResult:
        started, start = datetime.now(UTC), time.perf_counter()
        end = start + spec.limits.seconds
        process, ours = processes.start(_work, spec, self._adapter_folder, self._unconfined)
        self._process = process
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
            ours.close()
        environment = describe_environment(choose_device())
        return RunResult(make_record(spec, started, start, environment, outcome), None)


def _answers(connection: Connection, end: float) -> bool:
    """Wait until there is something to receive, or until `end` on time.perf_counter()."""
    while not connection.poll(min(LONGEST_WAIT, max(0.0, end - time.perf_counter()))):
        if time.perf_counter() >= end:
            return False
    return True


def _work(
    parent_end: Connection, spec: RunSpec, adapter_folder: Path | None, unconfined: bool
) -> None:
    """What the fresh process does: it asks whether to go on, has its answers scored, and leaves a
    result."""

    def ask(step: int, valid_nll: float) -> bool:
        parent_end.send((step, valid_nll))
        return parent_end.recv()

    def scores_of(scoring: Scoring) -> Scored:
        parent_end.send(scoring)
        return parent_end.recv()

    parent_end.send(run(spec, adapter_folder, ask, scores_of, unconfined=unconfined))
