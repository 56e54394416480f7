"""The suite from Python, for notebooks and scripts. The command line calls the same functions.

    python -c 'import peftbench; print(peftbench.compare("results")[["task", "label", "nll"]])'

Experiments and stores are given by their paths or as objects. What the caller got wrong (a name, a
key, a value, a path) raises `peftbench.errors.InputError`, which says in one line what would be
right.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from peftbench.errors import InputError, unknown
from peftbench.experiment import Experiment, expand, read_experiment, select
from peftbench.output import ensure_folder, ensure_writable
from peftbench.record import Record, Status
from peftbench.spec import Precision, RunSpec
from peftbench.store import Store, device_folder
from peftbench.wording import method_name, model_name

if TYPE_CHECKING:
    from pandas import DataFrame

    from peftbench.analysis.results import Results
    from peftbench.article.claim import Verdict
    from peftbench.exports.subject import Subject
    from peftbench.imported.record import ImportedRecord
    from peftbench.planning.costs import PlannedCosts
    from peftbench.planning.gpus import Gpu
    from peftbench.suite import Progress
    from peftbench.training.executor import LocalExecutor
    from peftbench.tuning.search import StudyResult
    from peftbench.tuning.storage import Search

Choice = str | int
Selection = Mapping[str, Choice | Iterable[Choice]]


@dataclass(frozen=True)
class Plan:
    """The runs of an experiment on this machine's device."""

    name: str  # of the experiment: its file
    specs: list[RunSpec]  # of all runs, in their order
    pending: list[RunSpec]  # those still to be done
    store: Store
    folder: str  # the device's, in the store

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
) -> Plan:
    """What `run` would do with the same arguments. Raises InputError."""
    from peftbench import suite
    from peftbench.methods import METHODS
    from peftbench.tasks import TASKS

    title, _, part = _experiment(experiment, only)
    if part.search:
        raise InputError(f"{title} is a search: `peftbench search` carries it out")
    statuses = {retry} if isinstance(retry, str) else set(retry)
    known = {*get_args(Status)} - {"done"}
    for name in statuses - known:
        raise unknown("status in --retry", name, known)
    folder, precision = _device()
    specs = expand(part, METHODS, TASKS, (settings or {}).items(), auto_precision=precision)
    kept = _store(store)
    return Plan(title, specs, suite.pending(specs, kept, folder, statuses), kept, folder)


def run(
    experiment: Experiment | Path | str,
    store: Store | Path | str = "results",
    *,
    only: Selection | None = None,
    settings: Mapping[str, Any] | None = None,
    retry: str | Iterable[str] = (),
    adapters: Path | str | None = None,
    unconfined: bool = False,
    begin: Callable[[RunSpec], object] | None = None,
    end: Callable[["Progress"], object] | None = None,
    say: Callable[[str], object] = print,
) -> list[Record]:
    """Carry out the runs of an experiment that the store does not hold yet, one after another.

    experiment: the path of an experiment file (TOML), or an `Experiment`.
    store: the folder of results, or a `Store`. The folder is made where there is none.
    only: the part that is wanted: by "method", "task", "model" or "seed", a value or several.
    settings: values that win over the experiment's, by a dotted key such as "train.steps".
    retry: a status ("failed", "timed-out", ...) or several; runs that ended so are done again.
    adapters: a folder; what a run trained is saved in a folder of its run id below it.
    unconfined: run programs that a model wrote even where the system does not confine them, with
        the rights of the caller.
    begin: called with a run's spec before the run.
    end: called after a run with a `Progress`: its record, how many runs of how many are done, and
        an estimate of the seconds left.
    say: called with lines for a person: how many runs there are, and what each came to.

    Returns the records of all runs of the experiment, in its order, those that the store held
    already included. A run that failed is a record too: see its `status` and `error`.
    Raises InputError where anything is wrong that can be seen before the first run, and nothing has
    run then. KeyboardInterrupt ends the run in progress; the same call goes on from there. Two
    calls at once do the same runs twice, and the store keeps what ends first.

    Example:

        records = peftbench.run("experiments/quick.toml", "results", only={"method": "lora"})
        print([(record.spec.task, record.metrics["nll"]) for record in records])
    """
    planned = plan(experiment, store, only=only, settings=settings, retry=retry)
    say(str(planned))

    def ended(progress: "Progress") -> None:
        say(progress_line(progress))
        if end:
            end(progress)

    if planned.pending:
        _carry_out(planned, adapters, unconfined, begin or (lambda spec: None), ended)
    return [planned.store.read(f"{planned.folder}/{spec.run_id}") for spec in planned.specs]


def _carry_out(
    planned: Plan,
    adapters: Path | str | None,
    unconfined: bool,
    begin: Callable[[RunSpec], object],
    end: Callable[["Progress"], object],
) -> None:
    """Check and run what is pending. Its imports take seconds, and a plan needs none of them."""
    from peftbench import suite
    from peftbench.training import processes

    processes.prepare()  # its imports and ours at the same time
    from peftbench.training.executor import LocalExecutor
    from peftbench.training.fine_tuning import check_specs
    from peftbench.training.run import check_confinement

    check_specs(planned.pending)
    check_confinement(planned.pending, unconfined)
    planned.store.ensure_writable()
    executor = LocalExecutor(_writable_folder(adapters), unconfined=unconfined)
    suite.run_all(planned.pending, planned.store, executor, begin, end)


def _writable_folder(adapters: Path | str | None) -> Path | None:
    """The folder of adapters, there and tried. Raises InputError where it cannot be written to."""
    if adapters is None:
        return None
    folder = Path(adapters)
    ensure_folder(folder)
    ensure_writable(folder / ".probe")
    return folder


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
    workers: trials at a time on this machine.
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

    if workers < 1:
        raise InputError(f"workers: at least one is needed (given: {workers})")
    name, file, part = _experiment(experiment, only)
    if out is None and file is not None:
        out = file.parent / "tuned" / file.name
    if out is not None:
        tuned_file.prepare(Path(out))
    stem = file.stem if file else "experiment"
    begun = _begin_search(part, name, stem, store, storage, unconfined, say)
    found = carry_out(begun, _executors(workers, unconfined))
    for result in found:
        say(tuned_file.summary(result))
    if shortage := tuned_file.shortage(found):
        say(f"no experiment file is written: {shortage}")
    elif out is not None:
        tuned_file.write(Path(out), tuned_file.experiment_file(part, name, found))
        say(f"wrote {out}")
    return found


def _executors(workers: int, unconfined: bool) -> list["LocalExecutor"]:
    """Where the trials of a search take place, so many at a time."""
    from peftbench.training import processes
    from peftbench.training.executor import LocalExecutor

    processes.prepare(workers)
    return [LocalExecutor(unconfined=unconfined) for _ in range(workers)]


def _begin_search(
    experiment: Experiment,
    name: str,
    stem: str,
    store: Store | Path | str,
    storage: str | None,
    unconfined: bool,
    say: Callable[[str], object],
) -> "Search":
    """The studies of an experiment, checked and created. stem: with which their names begin."""
    from peftbench.training.fine_tuning import check_specs
    from peftbench.training.run import check_confinement
    from peftbench.tuning.storage import Search, create_studies, open_storage, storage_errors
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
    place = str(results.root / "studies.journal") if storage is None else storage
    opened = open_storage(place, say)
    with storage_errors(place):
        tunable = create_studies(planned, opened, say)
    for study in planned:
        if study not in tunable:
            say(f"{study}: nothing to tune")
    say(f"{name}: {len(tunable)} studies in {place}")
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

    kept = ImportedStore(_store(store).root)
    read: list[ImportedRecord] = []
    problems: list[str] = []
    for path in result_files(Path(folder)):
        try:
            read.append(read_result(path))
        except InputError as error:
            problems.append(str(error))
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
    record = progress.record
    outcome = f"{record.status}: {record.error}"
    if record.status == "done":
        values = {name: record.metrics.get(name) for name in (record.primary, "nll")}
        outcome = ", ".join(f"{n} {value:.4g}" for n, value in values.items() if value is not None)
    left = ""
    if progress.seconds_left is not None and progress.done < progress.total:
        seconds = progress.seconds_left
        left = f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
        left = f"; about {left} left"
    notes = "".join(f"\n    note: {note}" for note in record.notes)
    return (
        f"[{progress.done}/{progress.total}] {run_name(record.spec)}: {outcome} "
        f"({record.seconds:.0f} s{left}){notes}"
    )


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
    return store if isinstance(store, Store) else Store(Path(store))


def _device() -> tuple[str, Precision]:
    """The store's folder for this machine's device, and what the precision "auto" comes to."""
    from peftbench.training.environment import auto_precision, choose_device, device_name

    device = choose_device()
    return device_folder(device.type, device_name(device)), auto_precision(device)
