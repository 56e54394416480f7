"""Fresh processes of the fork server, which has imported torch and transformers and done nothing
else: a start costs a fraction of a second, and nothing of one process reaches the next."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any

from peftbench.training import spinning

GRACE_SECONDS = 10  # what a process has to end after it was asked to
MAIN = threading.Lock()  # held by who has put another module in place of __main__
# The last three are slow to import, and imported where scores are made.
PRELOADED = ["peftbench.training.run", "evaluate", "sklearn.metrics", "scipy.stats"]


def prepare(workers: int = 1) -> None:
    """Start the fork server, unless it runs: its imports take seconds, so ask before it is needed.
    What it has in its environment then, all processes have. workers: as in `spinning.settle`."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    spinning.settle(workers)
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
    forkserver.ensure_running()


def start(work: Callable[..., None], *arguments: Any) -> tuple[BaseProcess, Connection]:
    """Start `work(connection, *arguments)`, and return the process with our end of the connection.
    The process ends with this one, however that ends, but not on Ctrl-C, which reaches the whole
    group: its parent decides."""
    prepare()
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe()
    process = context.Process(target=_follow, args=(work, theirs, *arguments), daemon=False)
    with _without_main():
        process.start()
    theirs.close()
    return process, ours


def end(process: BaseProcess) -> None:
    """Terminate the process, and kill it where it goes on."""
    if process.is_alive():
        process.terminate()
        process.join(GRACE_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()


def how_it_ended(process: BaseProcess) -> str:
    """The end of a process that left no answer, in words."""
    process.join(GRACE_SECONDS)
    exitcode = process.exitcode
    if exitcode is not None and exitcode < 0:
        hint = ", as the system does when memory runs out" if -exitcode == signal.SIGKILL else ""
        return f"the process was ended by {signal.Signals(-exitcode).name}{hint}"
    return f"the process ended with exit status {exitcode} and left no record"


def _follow(work: Callable[..., None], theirs: Connection, *arguments: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    work(theirs, *arguments)


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
