"""The door to many runs on this machine or on a Ray cluster."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftbench.door.given import Selection, Wanted, store_of, wanted_part
from peftbench.door.lines import progress_line
from peftbench.door.places import ExecutorName, checked, devices_of, joined
from peftbench.experiment import Experiment
from peftbench.record import Record
from peftbench.spec import RunSpec
from peftbench.store import Store

if TYPE_CHECKING:
    from peftbench.suite import Progress


@dataclass(frozen=True)
class Plan:
    """The runs of an experiment on this machine's device, or on a cluster's."""

    name: str  # of the experiment: its file
    specs: list[RunSpec]  # of all runs, in their order
    pending: list[RunSpec]  # those still to be done
    store: Store
    folder: str | None  # the device's, in the store; None: devices of a cluster, any of them
    workers: int  # runs at a time on a machine
    executor: ExecutorName

    def __str__(self) -> str:
        done = len(self.specs) - len(self.pending)
        return f"{self.name}: {len(self.specs)} runs, {done} of them in {self.store.root} already"


def plan(
    experiment: Experiment | Path | str,
    store: Store | Path | str = "results",
    *,
    only: Selection | None = None,
    settings: Mapping[str, Any] | None = None,
    retry: str | Iterable[str] = (),
    workers: int = 1,
    executor: ExecutorName = "local",
) -> Plan:
    """What `run` would do with the same arguments. Raises InputError."""
    wanted = _wanted(experiment, only, settings, retry, executor)
    with joined(executor):
        return _plan(wanted, store_of(store), workers, executor)


def run(
    experiment: Experiment | Path | str,
    store: Store | Path | str = "results",
    *,
    only: Selection | None = None,
    settings: Mapping[str, Any] | None = None,
    retry: str | Iterable[str] = (),
    adapters: Path | str | None = None,
    unconfined: bool = False,
    workers: int = 1,
    executor: ExecutorName = "local",
    begin: Callable[[RunSpec], object] | None = None,
    end: Callable[["Progress"], object] | None = None,
    say: Callable[[str], object] = print,
) -> list[Record]:
    """Carry out the runs of an experiment that the store does not hold yet, in their order.

    experiment: the path of an experiment file (TOML), or an `Experiment`.
    store: the folder of results, or a `Store`. The folder is made where there is none.
    only: the part that is wanted: by "method", "task", "model" or "seed", a value or several.
    settings: values that win over the experiment's, by a dotted key such as "train.steps".
    retry: a status ("failed", "timed-out", ...) or several; runs that ended so are done again.
    adapters: a folder; what a run trained is saved in a folder of its run id below it.
    unconfined: run programs that a model wrote, with the caller's rights, even where the system
        does not confine them.
    workers: runs at a time on a machine. Each has its own GPU, or on a CPU its own cores and as
        many threads; seconds of runs that share a machine are not compared.
    executor: "local", this machine; "ray", the Ray cluster that RAY_ADDRESS names or that this
        machine belongs to, else one started on it: each GPU is a place for a run, without GPUs each
        machine has `workers`, and a record from any device counts. Each machine needs this Python,
        peftbench, the packaged models and data, and PEFTBENCH_HUB or the hub's cache.
    begin: called with a run's spec before the run.
    end: called after a run with a `Progress`: its record, how many runs of how many are done, and
        an estimate of the seconds left.
    say: called with lines for a person: how many runs there are, and what each came to.

    Returns the records of all runs, in their order, those that the store held already included. A
    run that failed is a record too: see its `status` and `error`.
    Raises InputError where anything is wrong that is seen before the first run. KeyboardInterrupt
    ends the runs in progress; the same call goes on from there. Two calls at once do the same runs
    twice, and the store keeps what ends first.

    Example:

        records = peftbench.run("experiments/quick.toml", "results", only={"method": "lora"})
        print([(record.spec.task, record.metrics["nll"]) for record in records])
    """
    wanted = _wanted(experiment, only, settings, retry, executor)
    with joined(executor):
        planned = _plan(wanted, store_of(store), workers, executor)
        say(str(planned))
        if planned.pending:
            ended = _saying(say, end)
            _carry_out(planned, adapters, unconfined, begin or (lambda spec: None), ended)
    return [_latest(planned, spec) for spec in planned.specs]


def _wanted(
    experiment: Experiment | Path | str,
    only: Selection | None,
    settings: Mapping[str, Any] | None,
    retry: str | Iterable[str],
    executor: ExecutorName,
) -> Wanted:
    """The part of the experiment that is wanted. Raises InputError: for a cluster, which takes a
    while to start and alone knows what precision "auto" comes to, whatever is wrong with its
    runs."""
    wanted = wanted_part(experiment, only, settings, retry)
    if executor != "local":
        wanted.specs("float32")
    return wanted


def _plan(wanted: Wanted, store: Store, workers: int, executor: ExecutorName) -> Plan:
    """What there is to do in the cluster that this process has joined, or here."""
    from peftbench import suite

    folder, precision = devices_of(executor, workers)
    specs = wanted.specs(precision)
    pending = suite.pending(specs, store, folder, wanted.statuses)
    return Plan(wanted.name, specs, pending, store, folder, workers, executor)


def _saying(
    say: Callable[[str], object], end: Callable[["Progress"], object] | None
) -> Callable[["Progress"], object]:
    """What is called after a run: a line for a person, and what the caller gave."""

    def ended(progress: "Progress") -> None:
        say(progress_line(progress))
        if end:
            end(progress)

    return ended


def _latest(planned: Plan, spec: RunSpec) -> Record:
    """The record of a run that was carried out: of several devices' one that is done."""
    records = planned.store.find_all(spec.run_id, planned.folder)
    return next((record for record in records if record.status == "done"), records[0])


def _carry_out(
    planned: Plan,
    adapters: Path | str | None,
    unconfined: bool,
    begin: Callable[[RunSpec], object],
    end: Callable[["Progress"], object],
) -> None:
    """Check and run what is pending. Its imports take seconds, and a plan needs none of them."""
    from peftbench import suite

    make_executor = checked(
        planned.pending, planned.store, adapters, unconfined, planned.workers, planned.executor
    )
    suite.run_all(planned.pending, planned.store, make_executor(), begin, end)
