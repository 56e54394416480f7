"""What is exported: a run of the store, or an arm of a tuned experiment file on one task."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from peftbench.errors import InputError
from peftbench.experiment import ArmEntry, Experiment, TaskEntry, expand
from peftbench.methods import METHODS
from peftbench.record import Record
from peftbench.spec import Precision, RunSpec
from peftbench.store import run_key
from peftbench.tasks import TASKS
from peftbench.tasks.base import Example, Split, fingerprint, sample
from peftbench.wording import method_name, model_name

MOST_RUNS = 12  # run ids that a header lists


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The settings that are exported, and what they rest on."""

    spec: RunSpec
    record: Record | None  # None: an arm of a file, no single run
    rests_on: tuple[str, ...]  # sentences for a header

    def __str__(self) -> str:
        spec = self.spec
        base = "" if spec.base == "plain" else f" in {spec.base}"
        return (
            f"{method_name(spec.method, spec.args)} on {spec.task}, {model_name(spec.model)}{base}"
        )


def of_run(record: Record) -> Subject:
    """A run that is done, by a method and on a task as they are now. Raises InputError."""
    spec = record.spec
    if record.status != "done":
        raise InputError(
            f"run {record.run_id} is {record.status}: a recipe rests on a run that is done"
        )
    _check_versions(spec)
    _check_data(record)
    scores = {name: record.metrics.get(name) for name in (record.primary, "nll")}
    results = ", ".join(f"{name} {v:.4g}" for name, v in scores.items() if v is not None)
    commit = record.environment.commit
    made = f", made by commit {commit[:12]}" if commit else ""
    lines = [f"run {run_key(record)}{made}: {results} on {spec.split}"]
    if spec.study is not None:
        lines.append(f"study {spec.study.name!r}, {spec.study.trials} trials")
    return Subject(spec=spec, record=record, rests_on=tuple(lines))


def of_arm(
    name: str, experiment: Experiment, records: Iterable[Record], auto_precision: Precision
) -> Subject:
    """The only arm of an experiment file on its only task, with the first of its seeds. name: the
    file. records: of a store, which say what the arm's study and runs were, and in which precision.
    Raises InputError that lists the arms where there are several."""
    arm, task = _only_arm(name, experiment)
    reference = arm.on[task.name].study if task.name in arm.on else None
    of_study = [
        record
        for record in records
        if reference and record.spec.study and record.spec.study.name == reference.name
    ]
    precisions: set[Precision] = {record.spec.train.precision for record in of_study}
    precision = precisions.pop() if len(precisions) == 1 else auto_precision
    specs = expand(experiment, METHODS, TASKS, auto_precision=precision)
    lines = [f"{name}: {arm.method} on {task.name}, seed {specs[0].seed}"]
    if reference is None:
        lines.append("no study: the file's own values")
    else:
        lines.append(f"study {reference.name!r}, {reference.trials} trials")
        lines += _runs("its trials' runs", [r for r in of_study if r.spec.split == "valid"])
    final = {spec.run_id for spec in specs}
    lines += _runs("runs with these settings", [r for r in of_study if r.run_id in final])
    return Subject(spec=specs[0], record=None, rests_on=tuple(lines))


def _only_arm(name: str, experiment: Experiment) -> tuple[ArmEntry, TaskEntry]:
    pairs = [(arm, task) for task in experiment.task for arm in experiment.arm]
    if experiment.search is not None:
        raise InputError(f"{name} is a search: export the file that `peftbench search` writes")
    if len(pairs) == 1:
        return pairs[0]
    if not pairs:
        raise InputError(f"{name}: --only leaves no arm")
    there = "; ".join(_arm_name(arm, task) for arm, task in pairs)
    raise InputError(
        f"{name} has {len(pairs)} arms on tasks: name one by --only method=NAME,task=NAME, or by "
        f"the id of one of its runs ({there})"
    )


def _arm_name(arm: ArmEntry, task: TaskEntry) -> str:
    on = arm.on.get(task.name)
    values = arm.args | arm.train | (on.args | on.train if on else {})
    settings = ", ".join(f"{key} {value}" for key, value in values.items())
    return f"{arm.method}{f' ({settings})' if settings else ''} on {task.name}"


def _runs(what: str, records: Sequence[Record]) -> list[str]:
    """A sentence with the ids of the records; none without records."""
    ids = sorted({record.run_id for record in records})
    more = f" and {len(ids) - MOST_RUNS} more" if len(ids) > MOST_RUNS else ""
    return [f"{what}: {', '.join(ids[:MOST_RUNS])}{more}"] if ids else []


def _check_versions(spec: RunSpec) -> None:
    """Raises InputError where the run's method or task meant something else than it does now."""
    for kind, name, known in (("method", spec.method, METHODS), ("task", spec.task, TASKS)):
        if name not in known:
            raise InputError(f"{kind} {name!r} of run {spec.run_id} is not known here")
    for kind, name, version, now in (
        ("method", spec.method, spec.method_version, METHODS[spec.method].of(spec.args).version),
        ("task", spec.task, spec.task_version, TASKS[spec.task].version),
    ):
        if now != version:
            raise InputError(
                f"run {spec.run_id} is of version {version} of {kind} {name!r}, which is now at "
                f"version {now}: run it again"
            )


def _check_data(record: Record) -> None:
    """Raises InputError where the task's examples are not those that the run saw."""
    spec, task = record.spec, TASKS[record.spec.task]()
    splits: list[Split] = ["train", *(["valid"] if spec.train.eval_every else []), spec.split]
    examples: dict[Split, list[Example]] = {
        split: sample(task.examples(split), getattr(spec.data, split))
        for split in dict.fromkeys(splits)
    }
    if record.data is None or fingerprint(examples) != record.data.fingerprint:
        raise InputError(
            f"run {record.run_id}: the data of task {spec.task!r} here are not those of the run "
            "(another fingerprint): a recipe would train on other text"
        )
