"""Thousands of runs through the suite's own code, with a stub in place of training: what a run
costs beyond itself, what the driver's memory comes to, and whether a run is lost or done twice when
workers are killed.

    python benchmarks/scale.py local|ray [--runs 10000] [--kill 0.2]

A stub is a spec in and a record with predictions out, after 5 ms. Each is a fresh process of a fork
server that has imported torch, and its record is written to a store, as those of real runs are.
"""

import argparse
import contextlib
import json
import logging
import os
import random
import resource
import signal
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from peftbench import suite
from peftbench.methods import METHODS
from peftbench.record import Environment
from peftbench.spec import DataSpec, LimitSpec, RunSpec, TrainSpec
from peftbench.store import Store
from peftbench.training import processes, ray_executor
from peftbench.training.environment import describe_environment
from peftbench.training.executor import Executor, LocalExecutor
from peftbench.training.ray_executor import RayExecutor
from peftbench.training.run import RunResult, make_record
from peftbench.training.shares import WHOLE

STUB_SECONDS = 0.005
LOCAL_WORKERS = 8
DECLARED_GPUS = 64
# Of the 64 declared GPUs so many have a run at a time: each run takes a CPU of Ray's too. A worker
# of Ray's and its fork server have both imported torch, 0.8 GiB together.
RAY_PROCESSES = 8
EXAMPLES = 20
DONE = "done"  # the log of stubs that came to their end: run id and the process's CPU seconds


def specs_of(runs: int) -> list[RunSpec]:
    """Runs that differ in their seeds."""
    method = METHODS["lora"]
    one = RunSpec(
        model="stub",
        task="reviews",
        task_version=1,
        method="lora",
        method_version=method.version,
        args=method.complete({}),
        train=TrainSpec(steps=1, batch_size=1, lr=1e-3, precision="float32"),
        data=DataSpec(train=1, test=EXAMPLES, max_length=8),
        seed=0,
        split="test",
        limits=LimitSpec(),
    )
    return [one.model_copy(update={"seed": seed}) for seed in range(runs)]


def stub(spec: RunSpec, folder: Path, *_: Any, environment: Environment, **__: Any) -> RunResult:
    """What `training.run.run` is for a real run."""
    started, start = datetime.now(UTC), time.perf_counter()
    time.sleep(STUB_SECONDS)
    outcome = {"status": "done", "metrics": {"accuracy": 0.5, "nll": 0.7}}
    columns = {"sample": 0, "target": 1, "nll": 0.7, "count": 1, "answer": 1, "score": 1.0}
    ids = [f"test/{number}" for number in range(EXAMPLES)]
    result = RunResult(
        make_record(spec, started, start, environment, outcome),
        pd.DataFrame({"id": ids, **columns}),
    )
    with (folder / DONE).open("a") as file:
        file.write(f"{spec.run_id} {time.process_time()}\n")
    return result


@dataclass
class Watched:
    """What is seen of the runs while they end."""

    total: int
    kills: Sequence[int]  # after so many ended runs a worker is killed
    workers: Callable[[], list[int]]  # process ids of those that carry out a run
    begun: dict[str, float] = field(default_factory=dict)
    ends: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    killed: int = 0

    def begin(self, spec: RunSpec) -> None:
        self.begun[spec.run_id] = time.perf_counter()

    def end(self, progress: suite.Progress) -> None:
        now = time.perf_counter()
        self.ends.append(now)
        self.latencies.append(now - self.begun.pop(progress.record.run_id))
        for _ in range(self.kills.count(len(self.ends))):
            threading.Timer(random.random() * 0.1, self._kill).start()
        if len(self.ends) % 500 == 0:
            print(f"  {len(self.ends)} of {self.total}", flush=True)

    def _kill(self) -> None:
        pids = self.workers()
        if pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(random.choice(pids), signal.SIGKILL)
                self.killed += 1


@contextlib.contextmanager
def local_executor(folder: Path) -> Iterator[tuple[Executor, Callable[[], list[int]], int]]:
    """Workers are the runs' own processes: a killed one leaves a failed record."""
    processes.prepare(LOCAL_WORKERS)
    executor = LocalExecutor(folder, shares=[WHOLE] * LOCAL_WORKERS, runner=runner())

    def pids() -> list[int]:
        return [process.pid for process in [*executor._processes] if process.pid]

    yield executor, pids, LOCAL_WORKERS


@contextlib.contextmanager
def ray_cluster(folder: Path) -> Iterator[tuple[Executor, Callable[[], list[int]], int]]:
    """Workers are Ray's, each of which starts the process of a run and waits for it."""
    ray = ray_executor._ray()
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False, "include_dashboard": False}
    ray.init("local", num_cpus=RAY_PROCESSES, num_gpus=DECLARED_GPUS, **quiet)
    try:
        yield RayExecutor(folder, runner=runner()), ray_workers, DECLARED_GPUS
    finally:
        ray.shutdown()


def runner() -> Callable[..., RunResult]:
    return Stub(describe_environment(ray_executor.environment.choose_device()))


@dataclass(frozen=True)
class Stub:
    """The stub with the environment that all records have: to ask git for the commit, as each real
    run does, takes longer than the stub."""

    environment: Environment

    def __call__(self, *arguments: Any, **options: Any) -> RunResult:
        return stub(*arguments, environment=self.environment, **options)


def ray_workers() -> list[int]:
    """Ray's workers below this process that have a run."""
    parents: dict[int, int] = {}
    names: dict[int, bytes] = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            names[int(path.name)] = (path / "cmdline").read_bytes()
            stat = (path / "stat").read_text().rpartition(")")[2].split()
            parents[int(path.name)] = int(stat[1])

    def ours(pid: int) -> bool:
        while pid in parents and pid != os.getpid():
            pid = parents[pid]
        return pid == os.getpid()

    return [pid for pid, name in names.items() if name.startswith(b"ray::_carry_out") and ours(pid)]


def carry_out(engine: str, runs: int, kill: float, folder: Path) -> None:
    """Carry out the stubs and print what was seen. Runs that a kill left failed are tried again,
    as `--retry failed` does."""
    specs, store = specs_of(runs), Store(folder / "store")
    store.ensure_writable()
    start = time.perf_counter()
    with ENGINES[engine](folder) as (executor, workers, places):
        # of short-lived local workers there is one for each run
        share = runs if engine == "local" else places
        kills = [random.randrange(1, runs) for _ in range(round(kill * share))]
        watched = Watched(runs, kills, workers)
        began = time.perf_counter()
        cpu_before = time.process_time()
        suite.run_all(specs, store, executor, watched.begin, watched.end)
        driver_cpu = 1000 * (time.process_time() - cpu_before) / runs
    seconds = watched.ends[-1] - began
    failed = [record.run_id for record in store.read_all() if record.status != "done"]
    while again := suite.pending(specs, store, None, {"failed"}):
        with ENGINES[engine](folder) as (executor, workers, places):
            rest = Watched(len(again), (), workers)
            suite.run_all(again, store, executor, rest.begin, rest.end)
    cpu = 1000 * statistics.median(float(seconds) for _, seconds in logged(folder))
    report(watched, seconds, began - start, places)
    print(f"CPU: {driver_cpu:.1f} ms a run of the driver, {cpu:.1f} ms of a run's process (median)")
    print(f"killed workers: {watched.killed}; runs that left a failed record: {len(failed)}")
    check(specs, store, folder)


def logged(folder: Path) -> list[list[str]]:
    """The log of stubs: run id and CPU seconds of each that came to its end."""
    return [line.split() for line in (folder / DONE).read_text().splitlines()]


def report(watched: Watched, seconds: float, ready: float, places: int) -> None:
    intervals = [1000 * (b - a) for a, b in zip(watched.ends, watched.ends[1:], strict=False)]
    latency = 1000 * statistics.median(watched.latencies)
    driver = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{len(watched.ends)} runs, {places} places, ready after {ready:.1f} s, done in "
        f"{seconds:.0f} s: {1000 * seconds / len(watched.ends):.1f} ms a run\n"
        f"from one run's end to the next one's: median {statistics.median(intervals):.1f} ms\n"
        f"from a run's submission to its end, waiting included: median {latency:.0f} ms\n"
        f"the driver's peak memory: {driver:.0f} MiB"
    )


def check(specs: Sequence[RunSpec], store: Store, folder: Path) -> None:
    """Whether each run has one record that is done, and the store is whole."""
    attempts = [json.loads(path.read_text()) for path in (folder / "store").rglob("*.json")]
    done = Counter(each["run_id"] for each in attempts if each["status"] == "done")
    stubs = Counter(run_id for run_id, _ in logged(folder))
    print(
        f"records lost: {sum(not done[spec.run_id] for spec in specs)}; "
        f"doubled: {sum(records > 1 for records in done.values())}; runs whose stub came to its "
        f"end more than once: {sum(ends > 1 for ends in stubs.values())}; "
        f"problems in the store: {len(store.check())}"
    )


ENGINES = {"local": local_executor, "ray": ray_cluster}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--kill", type=float, default=0.0, help="share of the workers to kill")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        carry_out(asked.engine, asked.runs, asked.kill, Path(folder))


if __name__ == "__main__":
    import scale  # fresh processes find the stub in a module of this name, and not in __main__

    scale.main()
