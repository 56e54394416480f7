"""The suite from Python, for notebooks and scripts. The command line calls the same functions.

    python -c 'import peftbench; print(peftbench.compare("results")[["task", "label", "nll"]])'

Experiments and stores are given by their paths or as objects. What the caller got wrong (a name, a
key, a value, a path) raises `peftbench.errors.InputError`, which says in one line what would be
right.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from peftbench.errors import InputError, unknown
from peftbench.experiment import Experiment, expand, read_experiment, select
from peftbench.output import ensure_folder, ensure_writable
from peftbench.record import Record, Status
from peftbench.spec import Precision, RunSpec
from peftbench.store import Store, device_folder, store_at
from peftbench.wording import duration, method_name, model_name

if TYPE_CHECKING:
    from pandas import DataFrame

    from peftbench.analysis.results import Results
    from peftbench.article.claim import Verdict
    from peftbench.exports.subject import Subject
    from peftbench.imported.record import ImportedRecord
    from peftbench.planning.costs import PlannedCosts
    from peftbench.planning.gpus import Gpu
    from peftbench.suite import Progress
    from peftbench.training.executor import Executor, LocalExecutor
    from peftbench.tuning.search import StudyResult
    from peftbench.tuning.storage import Search
    from peftbench.working.merge import Merged
    from peftbench.working.status import Standing

ExecutorName = Literal["local", "ray"]
Choice = str | int
Selection = Mapping[str, Choice | Iterable[Choice]]


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
    from peftbench import suite

    with _joined(executor):
        folder, precision = _device(workers) if executor == "local" else _cluster(workers)
    title, specs, statuses = _wanted(experiment, only, settings, precision, retry)
    kept = _store(store)
    pending = suite.pending(specs, kept, folder, statuses)
    return Plan(title, specs, pending, kept, folder, workers, executor)


def _wanted(
    experiment: Experiment | Path | str,
    only: Selection | None,
    settings: Mapping[str, Any] | None,
    auto_precision: Precision,
    retry: str | Iterable[str] = (),
) -> tuple[str, list[RunSpec], set[str]]:
    """What an experiment is called, its runs, and the statuses that are tried again.
    auto_precision: what "auto" comes to."""
    from peftbench.methods import METHODS
    from peftbench.tasks import TASKS

    title, _, part = _experiment(experiment, only)
    if part.search:
        raise InputError(f"{title} is a search: `peftbench search` carries it out")
    statuses = {retry} if isinstance(retry, str) else set(retry)
    known = {*get_args(Status)} - {"done"}
    for name in statuses - known:
        raise unknown("status in --retry", name, known)
    specs = expand(part, METHODS, TASKS, (settings or {}).items(), auto_precision=auto_precision)
    return title, specs, statuses


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
    asked: dict[str, Any] = {"only": only, "settings": settings, "retry": retry}
    with _joined(executor):
        planned = plan(experiment, store, **asked, workers=workers, executor=executor)
        say(str(planned))
        if planned.pending:
            ended = _saying(say, end)
            _carry_out(planned, adapters, unconfined, begin or (lambda spec: None), ended)
    return [_latest(planned, spec) for spec in planned.specs]


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

    make_executor = _checked(
        planned.pending, planned.store, adapters, unconfined, planned.workers, planned.executor
    )
    suite.run_all(planned.pending, planned.store, make_executor(), begin, end)


def _checked(
    specs: list[RunSpec],
    store: Store,
    adapters: Path | str | None,
    unconfined: bool,
    workers: int = 1,
    executor: ExecutorName = "local",
) -> Callable[[], "Executor"]:
    """Check runs, and what they are to be written to; returns what makes their executor."""
    from peftbench.training import processes

    here = executor == "local"
    if here:
        processes.prepare(workers)  # its imports and ours at the same time
    from peftbench.training.executor import LocalExecutor
    from peftbench.training.fine_tuning import check_specs
    from peftbench.training.run import check_confinement

    check_specs(specs, here=here)
    if here:
        check_confinement(specs, unconfined)
    store.ensure_writable()
    folder = _writable_folder(adapters)
    if here:
        return lambda: LocalExecutor(folder, unconfined=unconfined, places=workers)
    from peftbench.training.ray_executor import RayExecutor

    return lambda: RayExecutor(folder, unconfined=unconfined, workers=workers)


@contextmanager
def _joined(executor: ExecutorName) -> Iterator[None]:
    """Within it, this process belongs to the cluster that the runs take place on, if there is one.
    Raises InputError."""
    if executor not in (names := get_args(ExecutorName)):
        raise unknown("executor", executor, names)
    if executor == "local":
        yield
        return
    from peftbench.training import ray_executor

    with ray_executor.joined():
        yield


def _writable_folder(adapters: Path | str | None) -> Path | None:
    """The folder of adapters, there and tried. Raises InputError where it cannot be written to."""
    if adapters is None:
        return None
    folder = Path(adapters)
    ensure_folder(folder)
    ensure_writable(folder / ".probe")
    return folder


def work(
    experiment: Experiment | Path | str,
    store: Store | Path | str = "results",
    *,
    only: Selection | None = None,
    settings: Mapping[str, Any] | None = None,
    retry: str | Iterable[str] = (),
    adapters: Path | str | None = None,
    unconfined: bool = False,
    begin: Callable[[RunSpec], object] | None = None,
    say: Callable[[str], object] = print,
) -> list[Record]:
    """Take part in an experiment: claim runs that no other worker has, one after another, until
    each has a record.

    Any number of workers on any number of machines may share a store, started and ended at any
    time. They need no coordinator: a run is claimed by a lease in the store, and taken over where
    its worker has shown no sign of life for two minutes. A record of any device counts, so that
    what is learned pools over devices; with precision "auto" devices of one kind belong together.

    All arguments are as in `run`; retry: what has failed by now; what fails from now on is not
    tried again. Returns the records of this worker's own runs. Raises InputError where anything is
    wrong that can be seen before the first run. KeyboardInterrupt ends the run in progress, and
    others can claim it at once.

    Example:

        peftbench.door.work("experiments/quick.toml", "s3://bucket/results")
    """
    from peftbench.working.work import Worker

    kept, (folder, precision) = _store(store), _device()
    name, specs, statuses = _wanted(experiment, only, settings, precision, retry)
    make_executor = _checked(specs, kept, adapters, unconfined)
    worker = Worker(kept, folder, specs, make_executor, statuses)
    say(f"{name}: {len(specs)} runs, {len(specs) - worker.left} of them in {kept} already")

    def end(record: Record, done: int, total: int) -> None:
        say(f"[{done}/{total}] {_outcome(record)} ({record.seconds:.0f} s){_notes(record)}")

    return worker.work(begin or (lambda spec: None), end)


def submit_workers(
    experiment: Path | str,
    store: Path | str,
    workers: int,
    *,
    logs: Path | str = "slurm",
    slurm: Mapping[str, Any] | None = None,
    only: Selection | None = None,
    settings: Mapping[str, Any] | None = None,
    retry: str | Iterable[str] = (),
    adapters: Path | str | None = None,
    unconfined: bool = False,
) -> list[str]:
    """Let Slurm start workers: an array of jobs, each of which does what `work` does with the same
    arguments on a machine with one GPU. Returns at once, with the jobs' ids; `status` says how far
    they are.

    experiment, store, adapters: places that the machines of the jobs reach by the same names.
    workers: how many jobs. A job that is preempted, or whose time is over, waits for its turn again
        and goes on.
    logs: the folder for the jobs' scripts and what they print.
    slurm: settings of sbatch by submitit's names, such as {"partition": "gpu", "time": 600}.

    Raises InputError where the experiment is wrong, or Slurm cannot be asked or refuses.

    Example:

        peftbench.door.submit_workers("glue.toml", "results", 8, slurm={"partition": "gpu"})
    """
    from peftbench.working.slurm import Job, submit

    kept = _store(store)
    _wanted(experiment, only, settings, "float32", retry)  # a mistake is better found here
    kept.ensure_writable()
    options: dict[str, Any] = {"only": only, "settings": settings, "retry": retry}
    options |= {"adapters": adapters and Path(adapters).absolute(), "unconfined": unconfined}
    place = kept.root if isinstance(kept.root, str) else kept.root.absolute()
    job = Job(work, (Path(experiment).absolute(), place), options)
    return submit(job, workers, Path(logs), slurm or {})


def status(
    experiment: Experiment | Path | str,
    store: Store | Path | str = "results",
    *,
    only: Selection | None = None,
    settings: Mapping[str, Any] | None = None,
) -> "Standing":
    """How far an experiment is, by its store alone: what is done, running (where, since when),
    waiting or failed, the seconds spent, and those to come by what like runs took.

    Arguments as in `run`. It counts the runs of every device, whatever this machine's is. Raises
    InputError that names a damaged record.

    Example:

        standing = peftbench.door.status("experiments/quick.toml", "results")
        print(len(standing.done), "of", standing.total)
    """
    from peftbench.working.status import standing

    kinds: list[Precision] = ["float32", "bf16-mixed"]  # what "auto" comes to, here and there
    of_kinds = [_wanted(experiment, only, settings, kind) for kind in kinds]
    runs = [
        list({spec.run_id: spec for spec in alternatives}.values())
        for alternatives in zip(*(specs for _, specs, _ in of_kinds), strict=True)
    ]
    return standing(of_kinds[0][0], runs, _store(store))


def merge(into: Store | Path | str, *sources: Store | Path | str) -> "Merged":
    """Copy the records of stores into one, byte for byte. What is there stays: a record that
    contradicts one that is done there is named in `problems`, as is one that cannot be read.

    Raises InputError if a source is no store or `into` cannot be written.

    Example:

        merged = peftbench.door.merge("results", "from_gpu1", "s3://bucket/results")
        print(merged.new, *merged.problems)
    """
    from peftbench.working.merge import merge

    return merge(_store(into), [_store(source) for source in sources])


def search(
    experiment: Experiment | Path | str,
    store: Store | Path | str = "results",
    *,
    only: Selection | None = None,
    storage: str | None = None,
    workers: int = 1,
    unconfined: bool = False,
    out: Path | str | None = None,
    say: Callable[[str], object] = print,
) -> list["StudyResult"]:
    """Tune every arm of an experiment on every task with the same number of trials, and write an
    experiment file with the settings found.

    experiment: the path of an experiment file (TOML) with a table [search], or such an
        `Experiment`.
    store: the folder of results, or a `Store`; every trial's runs are records there.
    only: as in `run`.
    storage: where the trials are kept: the path of a journal file, or an Optuna URL
        (sqlite:///FILE, postgresql://..., grpc://HOST:PORT). None: `studies.journal` in the store.
    workers: trials at a time on this machine, each on a GPU of its own while there are enough.
    unconfined: as in `run`.
    out: the experiment file to write. None: `tuned/NAME.toml` beside the experiment's file; an
        `Experiment` has none, and nothing is written.
    say: called with lines for a person: each trial, each study's result.

    Returns what each study found (`result.best.params`, `result.best.value`: the settings and
    their nll on valid; `result.lacking`: trials that were lost twice, without which no experiment
    file is written). Raises InputError as `run` does. Interrupted by whatever means, the same call
    goes on.

    Example:

        for result in peftbench.search("experiments/loraplus_ratio.toml", workers=2):
            print(result.study, result.best and result.best.params)
    """
    from peftbench.tuning import tuned_file
    from peftbench.tuning.search import carry_out
    from peftbench.tuning.storage_errors import lost_connections

    if workers < 1:
        raise InputError(f"workers: at least one is needed (given: {workers})")
    name, file, part = _experiment(experiment, only)
    out = file.parent / "tuned" / file.name if out is None and file is not None else out
    if out is not None:
        tuned_file.prepare(Path(out))
    stem = file.stem if file else "experiment"
    place = _place_of_trials(storage, store)
    begun = _begin_search(part, name, stem, store, place, unconfined, say)
    with lost_connections(place):
        found = carry_out(begun, _executors(workers, unconfined))
    for result in found:
        say(tuned_file.summary(result))
    if shortage := tuned_file.shortage(found):
        say(f"no experiment file is written: {shortage}")
    elif out is not None:
        tuned_file.write(Path(out), tuned_file.experiment_file(part, name, found))
        say(f"wrote {out}")
    return found


def _place_of_trials(storage: str | None, store: Store | Path | str) -> str:
    """The path or URL of a search's storage. storage: what the caller names; None: a journal in the
    store. Raises InputError where a store cannot hold one."""
    if storage is not None:
        return storage
    kept = _store(store)
    if isinstance(kept.root, str):
        raise InputError(
            f"store {kept}: a search's trials cannot be kept there, they change: name --storage, "
            "a journal file or postgresql://..."
        )
    return str(kept.root / "studies.journal")


def _executors(workers: int, unconfined: bool) -> list["LocalExecutor"]:
    """Where the trials of a search take place, so many at a time."""
    from peftbench.training import processes
    from peftbench.training.executor import LocalExecutor
    from peftbench.training.shares import shares_of_trials

    processes.prepare(workers)
    return [
        LocalExecutor(unconfined=unconfined, shares=[share], runs_at_once=workers)
        for share in shares_of_trials(workers)
    ]


def _begin_search(
    experiment: Experiment,
    name: str,
    stem: str,
    store: Store | Path | str,
    place: str,
    unconfined: bool,
    say: Callable[[str], object],
) -> "Search":
    """The studies of an experiment, checked and created. stem: with which their names begin;
    place: the storage's path or URL."""
    from peftbench.training.fine_tuning import check_specs
    from peftbench.training.run import check_confinement
    from peftbench.tuning.storage import Search, create_studies, open_storage
    from peftbench.tuning.storage_errors import masked, storage_errors
    from peftbench.tuning.studies import studies

    folder, precision = _device()
    planned = studies(experiment, stem, precision)
    runs = [(study, study.runs({})) for study in planned]
    specs = [spec for _, own in runs for spec in own]
    reasons = check_specs(specs)
    planned = []
    for study, own in runs:
        if why := next((reasons[spec.run_id] for spec in own if spec.run_id in reasons), None):
            say(f"{study}: skipped: {why}")
        else:
            planned.append(study)
    check_confinement(specs, unconfined)
    results = _store(store)
    results.ensure_writable()
    opened = open_storage(place, say)
    with storage_errors(place):
        tunable = create_studies(planned, opened, say)
    for study in planned:
        if study not in tunable:
            say(f"{study}: nothing to tune")
    say(f"{name}: {len(tunable)} studies in {masked(place)}")
    return Search(tunable, opened, results, folder, say)


def compare(store: Store | Path | str = "results") -> "DataFrame":
    """The comparison of the methods in a store: a row for each arm in each block of runs that may
    be compared, as in `peftbench table --format csv`.

    store: the folder of results, or a `Store`.

    Columns have the names that records use, numbers are unrounded, in bytes and seconds: the block
    (model, task, split, data), the arm (method, label, args, train), `metric` and `nll` with their
    intervals (`nll.low`, `nll.high`), parameters, bytes, FLOPs, seconds. Unknown values are NA.
    Raises InputError that names a record that was changed or damaged.

    Example:

        table = peftbench.compare("results")
        print(table.sort_values(["task", "nll"])[["task", "label", "nll", "peak_bytes"]])
    """
    from peftbench.markup import as_frame
    from peftbench.tables import comparison

    return as_frame(comparison(results(store))).convert_dtypes()


def claims(store: Store | Path | str = "results") -> list["Verdict"]:
    """The article's claims, judged by the runs in a store, as in `peftbench claims`.

    store: the folder of results, or a `Store`.

    Returns a verdict for each claim, in the article's order: supported, refuted or undecided, with
    the effect and its interval, and why. Raises InputError that names a record that was changed or
    damaged.

    Example:

        for verdict in peftbench.claims("results"):
            print(verdict.claim.id, verdict.decision, verdict.reason["en"])
    """
    from peftbench.article.verdicts import verdicts

    return verdicts(results(store))


def export(
    subject: Experiment | Path | str,
    to: str,
    out: Path | str,
    store: Store | Path | str = "results",
    *,
    only: Selection | None = None,
    adapters: Path | str | None = None,
) -> list[Path]:
    """Write what another tool needs to train as a run or a tuned arm did, or a run's adapter as an
    ordinary LoRA file.

    subject: a run's id, its beginning or its key, or an experiment file (TOML) such as `search`
        writes, or an `Experiment`, of which `only` leaves one arm on one task.
    to: "peft", "trl", "llama-factory", "axolotl", "torchtune" or "unsloth": a recipe; "lora": the
        adapter, which must be a run's.
    out: the folder to write to. Nothing there is replaced.
    store: the folder of results, or a `Store`: where the run is, and what a tuned arm rests on.
    only: as in `run`; of several seeds the first is taken.
    adapters: for "lora": the folder that the run's adapter was saved below (`run(adapters=...)`).

    Returns the files. A recipe holds the run's own tokens in the order of its steps; its header
    says what it rests on and what is not as in the run. Raises InputError that names what the tool
    cannot say: nothing is approximated.

    Example:

        peftbench.export("experiments/tuned/study.toml", "peft", "recipe",
                         only={"method": "vera", "task": "cola"})
    """
    from peftbench.exports.tools import TOOLS
    from peftbench.exports.write import adapter_files, recipe_files, write

    if to not in (known := [*TOOLS, "lora"]):
        raise unknown("tool in --to", to, known)
    if (to == "lora") != (adapters is not None):
        raise InputError("--to lora needs --adapters DIR, and nothing else does")
    exported = _subject(subject, store, only)
    if adapters is None:
        return write(Path(out), recipe_files(exported, TOOLS[to]))
    if exported.record is None:
        raise InputError("--to lora is for a run: name its id, since a file has no adapter")
    return write(Path(out), adapter_files(exported, Path(adapters)))


def _subject(
    subject: Experiment | Path | str, store: Store | Path | str, only: Selection | None
) -> "Subject":
    """The run, or the arm of a file with what the store knows of it."""
    from peftbench.exports.subject import of_arm, of_run

    kept = _store(store)
    if isinstance(subject, Experiment) or str(subject).endswith(".toml"):
        name, _, part = _experiment(subject, only)
        return of_arm(name, part, kept.read_all(), _device()[1])
    if only:
        raise InputError("--only is for an experiment file: a run is one arm on one task already")
    return of_run(kept.read(str(subject)))


def planned_costs(
    experiment: Experiment | Path | str,
    store: Store | Path | str = "results",
    *,
    gpus: Iterable[str | float] = (),
    device: Literal["cuda", "cpu"] | None = None,
    only: Selection | None = None,
    settings: Mapping[str, Any] | None = None,
    workers: int = 1,
    tflops: float | None = None,
    begin: Callable[[str], object] | None = None,
) -> "PlannedCosts":
    """Say what an experiment or a search will cost, without running or loading anything of it: how
    many runs there are, the memory of each arm, seconds, hours, and what would not fit.

    experiment: the path of an experiment file (TOML), with or without a table [search], or an
        `Experiment`.
    store: the folder of results, or a `Store`: runs that it has are not to come, and runs like
        those to come say what they will take.
    gpus: GPUs that it is to fit into, by name ("A100-80GB") or as numbers of GiB.
    device: the kind that the runs are for. None: "cuda" where GPUs are named, else this machine's.
    only: as in `run`.
    settings: as in `run`; a search takes none.
    workers: how many runs are carried out at a time.
    tflops: TFLOP/s that your own runs reach, for an answer about runs that have no like runs.
    begin: called with a few words before each estimate is made, of which there may be many.

    Returns a row for each arm on each task and model (`costs.rows`) and the totals. Bytes are
    measured where the store has like runs, else an estimate; seconds are measured, or None.
    Raises InputError as `run` does.

    Example:

        costs = peftbench.planned_costs("experiments/glue.toml", gpus=["A100-80GB", 24])
        print(costs.to_come, costs.measured_seconds, costs.unknown_runs)
        for row in costs.rows:
            print(row.label, row.memory, row.seconds, [on.fits for on in row.on])
    """
    from peftbench.planning import arms, costs
    from peftbench.planning.commits import commit_of
    from peftbench.planning.gpus import gpu

    asked = [gpu(str(each)) for each in gpus]
    kind, precision = _planned_device(device, asked)
    _check_numbers(workers, tflops)
    kept, notes = _store(store), list[str]()
    records = list(kept.read_all())
    title, file, part = _experiment(experiment, only, commit_of(records, notes.append))
    planned = arms.planned(part, file.stem if file else "experiment", settings or {}, precision)
    return costs.PlannedCosts(
        name=title,
        store=str(kept.root),
        device=kind,
        rows=costs.rows(planned, records, kind, asked, begin or (lambda text: None)),
        workers=workers,
        flops_per_second=None if tflops is None else tflops * 1e12,
        later_runs=arms.later_runs(part),
        notes=tuple(notes),
    )


def _planned_device(
    device: Literal["cuda", "cpu"] | None, gpus: "Sequence[Gpu]"
) -> tuple[Literal["cuda", "cpu"], Precision]:
    """The kind of device, and what the precision "auto" comes to there. Raises InputError."""
    from peftbench.training.environment import auto_precision, choose_device

    if device not in (None, "cuda", "cpu"):
        raise unknown("device", str(device), ("cuda", "cpu"))
    if gpus and device == "cpu":
        raise InputError("GPUs are named, and the device is cpu: leave one of them out")
    if len({gpu.bfloat16 for gpu in gpus}) > 1:
        without = next(gpu.name for gpu in gpus if not gpu.bfloat16)
        raise InputError(
            f"GPU {without} has no bfloat16 and others have, so that runs there would be others: "
            "ask about them apart"
        )
    if gpus:
        return "cuda", gpus[0].auto_precision
    if device == "cuda":
        return "cuda", "bf16-mixed"
    here = choose_device()
    if device == "cpu" or here.type == "cpu":
        return "cpu", "float32"
    return "cuda", auto_precision(here)


def _check_numbers(workers: int, tflops: float | None) -> None:
    """Raises InputError."""
    if workers < 1:
        raise InputError(f"workers: at least one is needed (given: {workers})")
    if tflops is not None and not (math.isfinite(tflops) and tflops > 0):
        raise InputError(f"tflops: a number above 0 is needed, such as 150 (given: {tflops:g})")


def results(store: Store | Path | str) -> "Results":
    """The runs of a store, as the tables and the claims take them. Raises InputError."""
    from peftbench.analysis.results import Results

    return Results.read(_store(store))


@dataclass(frozen=True)
class Import:
    """What reading in the results of others came to."""

    new: tuple["ImportedRecord", ...]
    known: tuple["ImportedRecord", ...]  # that the store had already
    problems: tuple[str, ...]  # a line for each file that could not be read


def import_method_comparison(folder: Path | str, store: Store | Path | str = "results") -> Import:
    """Read the results of huggingface/peft's own benchmark into a store, as records of a kind of
    their own: they stand in tables of their own, and nothing of ours is compared with them.

    folder: `method_comparison` of a checkout of peft, or one of its folders `TASK/results`.
    store: the folder of results, or a `Store`. The folder is made where there is none.

    Files that cannot be read are named in `problems`; all others are imported. The same file again
    changes nothing. Raises InputError if there is no such folder, it has no results, or the store
    cannot be written.

    Example:

        done = import_method_comparison("peft/method_comparison", "results")
        print(len(done.new), *done.problems)
    """
    from peftbench.imported.method_comparison import read_result, result_files
    from peftbench.imported.store import ImportedStore

    results = _store(store)
    kept = ImportedStore(results.root)
    read: list[ImportedRecord] = []
    problems: list[str] = []
    for path in result_files(Path(folder)):
        try:
            read.append(read_result(path))
        except InputError as error:
            problems.append(str(error))
    results.ensure_writable()
    are_new = [(record, kept.write(record)) for record in read]
    return Import(
        new=tuple(record for record, is_new in are_new if is_new),
        known=tuple(record for record, is_new in are_new if not is_new),
        problems=tuple(problems),
    )


def imported(store: Store | Path | str) -> list["ImportedRecord"]:
    """What others measured, of a store. Raises InputError that names a file that was changed or
    damaged."""
    from peftbench.imported.store import ImportedStore

    return list(ImportedStore(_store(store).root).read_all())


def run_name(spec: RunSpec) -> str:
    """A run in a few words."""
    name = method_name(spec.method, spec.args)
    return f"{name} on {spec.task} ({model_name(spec.model)}), seed {spec.seed}"


def progress_line(progress: "Progress") -> str:
    """What a run came to, and how long the others will take."""
    left = ""
    if progress.seconds_left is not None and progress.done < progress.total:
        left = f"; about {duration(progress.seconds_left)} left"
    record = progress.record
    return (
        f"[{progress.done}/{progress.total}] {_outcome(record)} "
        f"({record.seconds:.0f} s{left}){_notes(record)}"
    )


def _outcome(record: Record) -> str:
    """What a run came to."""
    outcome = f"{record.status}: {record.error}"
    if record.status == "done":
        values = {name: record.metrics.get(name) for name in (record.primary, "nll")}
        outcome = ", ".join(f"{n} {value:.4g}" for n, value in values.items() if value is not None)
    return f"{run_name(record.spec)}: {outcome}"


def _notes(record: Record) -> str:
    return "".join(f"\n    note: {note}" for note in record.notes)


def _experiment(
    experiment: Experiment | Path | str,
    only: Selection | None,
    commit_of: Callable[[str], str] | None = None,
) -> tuple[str, Path | None, Experiment]:
    """What it is called, its file if it has one, and the part that is wanted, with the commits of
    its hub models. commit_of: what says them; None: the hub."""
    from peftbench.training.revisions import pinned

    values = {
        key: {str(choice) for choice in ([given] if isinstance(given, Choice) else given)}
        for key, given in (only or {}).items()
    }
    if isinstance(experiment, Experiment):
        return "the experiment", None, pinned(select(experiment, values), commit_of)
    file = Path(experiment)
    return str(file), file, pinned(select(read_experiment(file), values), commit_of)


def _store(store: Store | Path | str) -> Store:
    return store if isinstance(store, Store) else store_at(store)


def _device(workers: int = 1) -> tuple[str, Precision]:
    """The store's folder for this machine's device, as each of so many runs at once uses it, and
    what the precision "auto" comes to. Raises InputError where it has no place for so many."""
    from peftbench.training.environment import auto_precision, choose_device, device_name
    from peftbench.training.shares import shares

    device, threads = choose_device(), shares(workers)[0].threads
    return device_folder(device.type, device_name(device, threads)), auto_precision(device)


def _cluster(workers: int) -> tuple[None, Precision]:
    """The same of the Ray cluster that was joined, whose devices have folders of their own. Raises
    InputError."""
    from peftbench.training import ray_executor

    return None, ray_executor.auto_precision(workers)
