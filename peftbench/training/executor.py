"""Where runs take place: a process of its own for each."""

import multiprocessing
import multiprocessing.process
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Protocol

from peftbench.spec import RunSpec
from peftbench.training.environment import choose_device, describe_environment
from peftbench.training.loop import Watch
from peftbench.training.run import RunResult, make_record, run

GRACE_SECONDS = 10  # what a run has to end after it was asked to
# How long an idle thread of torch's spins before it sleeps. By default it is so long that two
# processes on the same cores stop each other; without any, small batches train no faster on two
# cores than on one.
SPINS = "1000"
MAIN = threading.Lock()  # held by who has put another module in place of __main__
# The last three are slow to import, and imported where scores are made.
PRELOADED = ["peftbench.training.run", "evaluate", "sklearn.metrics", "scipy.stats"]


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
    """Fresh processes on this machine, one at a time. They are forked from a server that has
    imported torch and transformers and done nothing else, so that a start costs a fraction of a
    second and nothing of one run reaches the next."""

    def __init__(self, adapter_folder: Path | None = None, *, unconfined: bool = False) -> None:
        """adapter_folder, unconfined: as in `run`."""
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        self._adapter_folder = adapter_folder
        self._unconfined = unconfined
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)
        self._pool = ThreadPoolExecutor(1)
        self._process: multiprocessing.process.BaseProcess | None = None

    def submit(self, spec: RunSpec, watch: Watch | None = None) -> Future[RunResult]:
        return self._pool.submit(self._run, spec, watch)

    def close(self) -> None:
        if self._process is not None:
            _end(self._process)
        self._pool.shutdown(cancel_futures=True)

    def _run(self, spec: RunSpec, watch: Watch | None) -> RunResult:
        started, start = datetime.now(UTC), time.perf_counter()
        ours, theirs = self._context.Pipe()
        arguments = (theirs, spec, self._adapter_folder, self._unconfined)
        process = self._context.Process(target=_work, args=arguments, daemon=False)
        with _without_main():
            process.start()
        self._process = process
        theirs.close()
        try:
            while ours.poll(max(0.0, start + spec.limits.seconds - time.perf_counter())):
                message = ours.recv()
                if isinstance(message, RunResult):
                    process.join(GRACE_SECONDS)
                    return message
                ours.send(watch is not None and watch(*message))
            error = f"not done after {spec.limits.seconds} s"
            outcome = {"status": "timed-out", "error": error}
        except EOFError:
            process.join(GRACE_SECONDS)
            outcome = {"status": "failed", "error": _how_it_ended(process.exitcode)}
        finally:
            _end(process)
            ours.close()
        environment = describe_environment(choose_device())
        return RunResult(make_record(spec, started, start, environment, outcome), None)


@contextmanager
def _without_main() -> Iterator[None]:
    """What starts in here does not import the caller's script again, as multiprocessing would have
    it: a script that calls us without a guard would start itself for ever."""
    with MAIN:
        main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


def _how_it_ended(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        hint = ", as the system does when memory runs out" if -exitcode == signal.SIGKILL else ""
        return f"the process was ended by {signal.Signals(-exitcode).name}{hint}"
    return f"the process ended with exit status {exitcode} and left no record"


def _end(process: multiprocessing.process.BaseProcess) -> None:
    """Terminate the process, and kill it where it goes on."""
    if process.is_alive():
        process.terminate()
        process.join(GRACE_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()


def _work(
    parent_end: Connection, spec: RunSpec, adapter_folder: Path | None, unconfined: bool
) -> None:
    """What the fresh process does. It ends with its parent, however that ends."""
    # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()

    def ask(step: int, valid_nll: float) -> bool:
        parent_end.send((step, valid_nll))
        return parent_end.recv()

    parent_end.send(run(spec, adapter_folder, ask, unconfined=unconfined))
