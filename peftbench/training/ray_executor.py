"""Runs on the machines of a Ray cluster: one task of Ray Core is one run, in a fresh process of the
machine that Ray gives it to."""

import logging
import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from peftbench.errors import InputError, first_line
from peftbench.record import Environment
from peftbench.spec import Precision, RunSpec
from peftbench.training import environment, processes
from peftbench.training.executor import LocalExecutor, Runner
from peftbench.training.loop import Watch
from peftbench.training.run import RunResult, make_record, run
from peftbench.training.shares import VISIBLE, Share

RETRIES = 3  # of a run whose worker or machine was lost; a run that fails is a record, and no loss
ADDRESS = "RAY_ADDRESS"
KIND = "accelerator_type:"  # with which Ray's resource begins that names the kind of a GPU

Resources = Mapping[str, float]


@dataclass(frozen=True)
class Need:
    """What a run takes of a machine: a whole GPU, or so many CPUs where the cluster has no GPU."""

    gpus: int
    cpus: int

    def places(self, resources: Resources) -> int:
        """How many runs a machine can have at a time."""
        if self.gpus:
            return int(resources.get("GPU", 0))
        return int(resources.get("CPU", 0)) // self.cpus

    def share(self) -> Share:
        """What a run has of the machine that this worker of Ray's is on."""
        if self.gpus:
            return Share(gpu=os.environ.get(VISIBLE))
        return Share(gpu="", threads=self.cpus)  # GPUs that Ray does not know are not ours


@dataclass(frozen=True)
class Machine:
    """What a machine of the cluster says of itself, as a run there would."""

    device: str
    environment: Environment
    precision: Precision  # that "auto" comes to


class RayExecutor:
    """Places on the machines of the cluster that this process has joined (`joined`)."""

    def __init__(
        self,
        adapter_folder: Path | None = None,
        *,
        unconfined: bool = False,
        workers: int = 1,
        runner: Runner = run,
    ) -> None:
        """adapter_folder: that all machines reach. workers: as in `need`. The others are
        LocalExecutor's. Raises InputError where the cluster cannot carry out runs."""
        self._need = need(workers)
        self._machine = _machines_say(self._need)[0]
        folder = adapter_folder and adapter_folder.absolute()
        self._arguments = (self._need, folder, unconfined, runner)
        # By default Ray ends a worker after a task with a GPU. Ours do not hold it: their child
        # does, which ends with the run.
        self._task = _remote(_carry_out, self._need, max_retries=RETRIES, max_calls=0)
        self._in_progress: set[Any] = set()

    def submit(self, spec: RunSpec, watch: Watch | None = None) -> Future[RunResult]:
        if watch is not None:
            raise ValueError("Ray asks nobody whether a run may end early")
        started, start = datetime.now(UTC), time.perf_counter()
        reference = self._task.remote(spec, *self._arguments)
        self._in_progress.add(reference)
        ended: Future[RunResult] = Future()

        def settle(answer: Future[RunResult]) -> None:
            self._in_progress.discard(reference)
            try:
                ended.set_result(self._result(spec, started, start, answer))
            except BaseException as error:  # for who waits, in another thread
                ended.set_exception(error)

        reference.future().add_done_callback(settle)
        return ended

    def places(self) -> int:
        return sum(map(self._need.places, _resources()))

    def close(self) -> None:
        for reference in [*self._in_progress]:
            _ray().cancel(reference, force=True)

    def _result(
        self, spec: RunSpec, started: datetime, start: float, answer: Future[RunResult]
    ) -> RunResult:
        """What came back, or the record of a run that was lost. Raises TaskCancelledError after
        `close`."""
        exceptions = _ray().exceptions
        try:
            return answer.result()
        except exceptions.TaskCancelledError:
            raise
        except exceptions.RayTaskError as error:
            reason = f"its worker of Ray's failed: {first_line(error.cause or error)}"
        except exceptions.RayError as error:
            reason = f"its worker or machine was lost {RETRIES + 1} times: {first_line(error)}"
        outcome = {"status": "failed", "error": reason}
        record = make_record(spec, started, start, self._machine.environment, outcome)
        return RunResult(record.model_copy(update={"device": self._machine.device}), None)


@contextmanager
def joined() -> Iterator[None]:
    """Within it, this process belongs to a Ray cluster: the one that it has joined already, that
    RAY_ADDRESS names or that this machine belongs to; where there is none, one that is started
    here and ends with it. Raises InputError where Ray is not installed or no cluster answers."""
    ray = _ray()
    if ray.is_initialized():
        yield
        return
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    named = os.environ.get(ADDRESS)
    try:
        if named == "local":
            raise ConnectionError
        ray.init("auto", **quiet)
    except ConnectionError as error:
        if named not in (None, "local"):
            raise InputError(
                f"{ADDRESS} = {named}: no Ray cluster answers there ({first_line(error)}); "
                "without it, one is started on this machine"
            ) from error
        ray.init("local", include_dashboard=False, **quiet)
    try:
        yield
    finally:
        ray.shutdown()


def need(workers: int) -> Need:
    """What a run takes in this cluster. workers: runs at a time on a machine without GPUs. Raises
    InputError where no machine has it."""
    if workers < 1:
        raise InputError(f"workers: at least one is needed (given: {workers})")
    resources = _resources()
    if any(each.get("GPU", 0) >= 1 for each in resources):
        if workers > 1:
            raise InputError(
                f"{workers} workers: the cluster has GPUs, and each of them is the place of one "
                "run: leave the number out"
            )
        return Need(gpus=1, cpus=1)
    cpus = [int(each["CPU"]) for each in resources if each.get("CPU", 0) >= 1]
    if not cpus:
        raise InputError("the Ray cluster has neither GPUs nor CPUs: start it with some")
    if min(cpus) < workers:
        raise InputError(
            f"{workers} workers: a machine of the cluster has {min(cpus)} CPUs, and each run needs "
            f"one of them: take at most {min(cpus)}"
        )
    return Need(gpus=0, cpus=min(cpus) // workers)


def auto_precision(workers: int) -> Precision:
    """What the precision "auto" comes to on the cluster's devices. Raises InputError where they
    differ in it."""
    precisions: dict[Precision, str] = {
        machine.precision: machine.environment.device_name
        for machine in _machines_say(need(workers))
    }
    if len(precisions) > 1:
        said = ", ".join(f"{precision} on {name}" for precision, name in precisions.items())
        raise InputError(f'train.precision: "auto" is {said}: set one of them for the cluster')
    return next(iter(precisions))


def _machines_say(need: Need) -> list[Machine]:
    """What one machine of each kind of GPU says of itself; any machine, where Ray knows no kinds.
    Raises InputError where one cannot answer."""
    ray = _ray()
    task = _remote(_describe, need)
    kinds = sorted({name for each in _resources() for name in each if name.startswith(KIND)})
    asked = [task.options(resources={kind: 0.001}) for kind in kinds if need.gpus] or [task]
    try:
        return ray.get([each.remote(need) for each in asked])
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        raise InputError(
            "the workers of the Ray cluster cannot carry out runs: each machine needs the Python "
            f"and the peftbench of this one ({first_line(cause)})"
        ) from error


def _describe(need: Need) -> Machine:
    """What a worker of Ray's says of its machine."""
    device = environment.choose_device()
    threads = need.share().threads
    return Machine(
        device=device.type,
        environment=environment.describe_environment(device, threads=threads),
        precision=environment.auto_precision(device),
    )


def _carry_out(
    spec: RunSpec, need: Need, adapter_folder: Path | None, unconfined: bool, runner: Runner
) -> RunResult:
    """What a worker of Ray's does: one run, in a fresh process of its machine."""
    own = _ray().get_runtime_context().get_node_id()
    at_once = sum(need.places(each) for each in _resources(own))
    processes.prepare(at_once)
    executor = LocalExecutor(
        adapter_folder,
        unconfined=unconfined,
        shares=[need.share()],
        runs_at_once=at_once,
        runner=runner,
    )
    try:
        return executor.submit(spec).result()
    finally:
        executor.close()


def _remote(function: Any, need: Need, **options: Any) -> Any:
    """A function as a task of Ray's that takes what a run takes."""
    return _ray().remote(num_gpus=need.gpus, num_cpus=need.cpus, **options)(function)


def _resources(node: str | None = None) -> list[Resources]:
    """What each machine of the cluster has, or the one with this id."""
    return [
        each["Resources"]
        for each in _ray().nodes()
        if each["Alive"] and node in (None, each["NodeID"])
    ]


def _ray() -> Any:
    """Ray, which reports nothing of its use, and whose workers, where it is started here, are as
    nice as this process, not nicer. Raises InputError where it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        import ray  # pyright: ignore[reportMissingImports]
        import ray.exceptions  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError("--executor ray needs Ray: pip install 'peftbench[ray]'") from error
    logging.getLogger("ray").setLevel(logging.ERROR)
    return ray
