"""What is to be run: an experiment file, a selected part of it, and its single runs."""

import itertools
import tomllib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, get_args

from pydantic import Field

from peftbench.errors import InputError, shown, unknown
from peftbench.spec import (
    Base,
    Count,
    DataSpec,
    LimitSpec,
    Pooling,
    Precision,
    RunSpec,
    ScoredSplit,
    Seed,
    Settings,
    StudyReference,
    TrainSpec,
    split_revision,
    validated,
)

Sampler = Literal["bracket", "tpe", "random", "grid"]
# Sentence encoders, whose training reached the mean of the last hidden states and not their pooler.
SENTENCE_ENCODERS = {"minilm-l6"}


class TaskEntry(Settings):
    """A task of an experiment, with what differs there from the experiment's defaults. A name alone
    stands for a table that holds only that name."""

    name: str
    """`peftbench list tasks` prints the names."""
    model: str | None = None
    """The model for this task; null: the experiment's."""
    pooling: Pooling | None = None
    """What a classifier's head reads on this task; null: the experiment's."""
    base: Base | None = None
    """How frozen weights are kept on this task; null: as the experiment says."""
    train: dict[str, Any] = {}
    """Training settings that differ on this task."""
    data: dict[str, Any] = {}
    """Data settings that differ on this task."""
    limits: dict[str, Any] = {}
    """Limits that differ on this task."""


class Override(Settings):
    """What an arm changes on one task."""

    train: dict[str, Any] = {}
    """Training settings of the arm on this task."""
    args: dict[str, Any] = {}
    """Hyperparameters of the arm on this task."""
    study: StudyReference | None = None
    """The study that found the values; `peftbench search` writes it."""


class ArmEntry(Settings):
    """A method with its hyperparameters."""

    method: str
    args: dict[str, Any] = {}
    """The method's hyperparameters; `peftbench list methods` prints them with their defaults."""
    train: dict[str, Any] = {}
    """Training settings of this arm, such as its learning rate."""
    base: Base | None = None
    """How this arm's frozen weights are kept; null: as the task or the experiment says."""
    on: dict[str, Override] = {}
    """What the arm changes on one task, by the task's name."""
    space: dict[str, Any] = {}
    """Of a search: what is varied in place of the method's own ranges, by a dotted key in quotation
    marks. A range `{ low = 1e-4, high = 1e-2, log = true }`, a list of values, or false: not
    varied."""
    sampler: Sampler | None = None
    """Of a search: the arm's sampler; null: that of the table [search]."""


class SearchTable(Settings):
    """How `peftbench search` tunes an experiment: on `valid`, with the same number of trials for
    every arm."""

    trials: Count
    """Trials of each arm on each task; a trial is one run for each of the experiment's seeds."""
    sampler: Sampler | None = None
    """How the values of a trial are drawn. bracket: of one number that is not whole, three values
    spread over its range, then golden sections on both sides of the best; tpe: from a model of the
    trials before it; random; grid: every combination of the listed values once. null: bracket for
    an arm that varies one such number, tpe for the others."""
    pruner: Literal["halving", "none"] | None = None
    """halving: trials that are not among the best at a fraction of their steps end there. null:
    halving for language models, none where a new head is trained, whose first losses predict too
    little (docs/log.md)."""
    seed: Annotated[Seed, Field(lt=2**32)] = 0
    """Seed of the sampler."""
    test_seeds: Annotated[int, Field(gt=0, le=1000)] = 5
    """How many fresh seeds the experiment file with the settings found gets."""


class Experiment(Settings):
    """An experiment file: every arm runs on every task with every seed."""

    question: str
    """What the experiment is to answer."""
    model: str | None = None
    """A packaged model's name, a local folder, a hub id, or `id@revision` with a branch, a tag or a
    commit of the hub's, for all tasks that name none. The runs' specs hold the commit."""
    pooling: Pooling | None = None
    """What a classifier's head reads: "model", what transformers' head of the model's family does;
    "mean", the mean of the last hidden states over all tokens, for encoders. null: "mean" for the
    packaged minilm-l6, a sentence encoder, and "model" for every other model and for
    generation."""
    base: Base | None = None
    """How frozen weights are kept: "nf4" (4 bits, as QLoRA does), "int8", or "plain", which null
    means too. That of a task, and then of an arm, wins over it."""
    task: tuple[TaskEntry, ...]
    """The tasks: a list of names, or a table [[task]] for each."""
    arm: tuple[ArmEntry, ...]
    """What is compared, a table [[arm]] for each."""
    seeds: tuple[Seed, ...] = (0,)
    """A run for each of them."""
    split: ScoredSplit = "test"
    """The split that is scored."""
    train: dict[str, Any] = {}
    """Training settings of all runs; those of a task, an arm and its `on.TASK` win over them, in
    that order."""
    data: dict[str, Any] = {}
    """Data settings of all runs; those of a task win over them."""
    limits: dict[str, Any] = {}
    """Limits of all runs; those of a task win over them."""
    search: SearchTable | None = None
    """Present: `peftbench search` carries out the file, not `peftbench run`."""


class MethodType(Protocol):
    """What `expand` needs to know of a method."""

    version: int
    lr: float

    def of(self, args: Mapping[str, Any]) -> "MethodType": ...

    def complete(self, args: Mapping[str, Any]) -> dict[str, Any]: ...


class TaskType(Protocol):
    """What `expand` needs to know of a task."""

    version: int

    @property
    def kind(self) -> str: ...


def read_experiment(path: Path) -> Experiment:
    """The experiment in a TOML file. Raises InputError that names the file and the key."""
    try:
        if path.exists() and not path.is_file():  # reading a pipe would wait for ever
            raise InputError(f"{path}: not a file")
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"no such experiment file: {path}") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except RecursionError:
        raise InputError(f"{path}: not an experiment: nested too deeply") from None
    except ValueError as error:  # no TOML, no UTF-8, too many digits
        raise InputError(f"{path}: not TOML: {error}") from error
    entries = raw.get("task")
    if isinstance(entries, list):
        raw["task"] = [{"name": entry} if isinstance(entry, str) else entry for entry in entries]
    experiment = validated(Experiment, raw, str(path))
    for key in ("task", "arm", "seeds"):
        if not getattr(experiment, key):
            raise InputError(f"{path}: {key}: at least one is needed")
    return experiment


def select(experiment: Experiment, only: Mapping[str, set[str]]) -> Experiment:
    """The part of an experiment whose method, task, model and seed are among the given ones.

    only: any of the keys method, task, model and seed, each with the values that are kept; a model
        as the experiment names it, or without its revision.
    Raises InputError on an unknown key or value, and if no task is left.
    """
    models = [entry.model or experiment.model or "" for entry in experiment.task]
    there = {
        "method": {arm.method for arm in experiment.arm},
        "task": {entry.name for entry in experiment.task},
        "model": {name for model in models for name in _names(model)},
        "seed": {*map(str, experiment.seeds)},
    }
    for key, values in only.items():
        if key not in there:
            raise unknown("key in --only", key, there)
        for value in values - there[key]:
            raise unknown(f"{key} in --only", value, there[key])

    def wanted(key: str, *names: str) -> bool:
        return key not in only or not only[key].isdisjoint(names)

    entries = [
        entry
        for entry, model in zip(experiment.task, models, strict=True)
        if wanted("task", entry.name) and wanted("model", *_names(model))
    ]
    if not entries:
        raise InputError(
            "--only leaves no task of the experiment: no task has both that name and that model"
        )
    left_out = {entry.name for entry in experiment.task} - {entry.name for entry in entries}
    arms = [arm for arm in experiment.arm if wanted("method", arm.method)]
    selected = {
        "arm": tuple(_without(arm, left_out) for arm in arms),
        "task": tuple(entries),
        "seeds": tuple(seed for seed in experiment.seeds if wanted("seed", str(seed))),
    }
    return experiment.model_copy(update=selected)


def _names(model: str) -> tuple[str, str]:
    """What a model may be called: with its revision and without."""
    return model, split_revision(model)[0]


def _without(arm: ArmEntry, tasks: Collection[str]) -> ArmEntry:
    """The arm without what it changes on some tasks."""
    on = {name: override for name, override in arm.on.items() if name not in tasks}
    return arm.model_copy(update={"on": on})


def expand(
    experiment: Experiment,
    methods: Mapping[str, MethodType],
    tasks: Mapping[str, TaskType],
    settings: Iterable[tuple[str, Any]] = (),
    *,
    auto_precision: Precision,
) -> list[RunSpec]:
    """Every run of an experiment, complete: seed by seed, within a seed task by task, and within a
    task arm by arm.

    settings: (dotted key, value) pairs such as ("train.steps", 20), which win over the file.
    auto_precision: what the precision "auto" comes to on the device the runs are for.
    Raises InputError on a name, key or value that does not exist.
    """
    forced, forced_base = _forced(settings)
    check_names(experiment, methods, tasks)
    specs: dict[str, RunSpec] = {}
    for seed, entry in itertools.product(experiment.seeds, experiment.task):
        where = f"task {shown(entry.name)}"
        model = entry.model or experiment.model
        if model is None:
            raise InputError(f"{where} has no model: give one there or at the top of the file")
        data = experiment.data | entry.data | forced["data"]
        limits = experiment.limits | entry.limits | forced["limits"]
        for arm in experiment.arm:
            on = arm.on.get(entry.name, Override())
            args = arm.args | on.args | forced["args"]
            method = methods[arm.method].of(args)
            train = {"lr": method.lr, "precision": "auto"}
            for table in (experiment.train, entry.train, arm.train, on.train, forced["train"]):
                train |= table
            spec = RunSpec(
                model=model,
                pooling=_pooling(experiment, entry, model, tasks[entry.name].kind),
                base=forced_base or arm.base or entry.base or experiment.base or "plain",
                task=entry.name,
                task_version=tasks[entry.name].version,
                method=arm.method,
                method_version=method.version,
                args=method.complete(args),
                train=_train_spec(
                    train, auto_precision, f"arm {shown(arm.method)} on {where}: train"
                ),
                data=validated(DataSpec, data, f"{where}: data"),
                seed=seed,
                split=experiment.split,
                limits=validated(LimitSpec, limits, f"{where}: limits"),
                study=on.study,
            )
            if spec.run_id in specs:
                raise InputError(
                    f"arm {shown(arm.method)} on {where}, seed {seed}: "
                    "the same run is in the experiment twice"
                )
            specs[spec.run_id] = spec
    return list(specs.values())


def _forced(settings: Iterable[tuple[str, Any]]) -> tuple[dict[str, dict[str, Any]], Base | None]:
    """What `--set` gives: values by the table of their key, and the base. Raises InputError on
    another key."""
    tables: dict[str, dict[str, Any]] = {"train": {}, "data": {}, "limits": {}, "args": {}}
    base: Base | None = None
    for key, value in settings:
        table, _, name = key.partition(".")
        if key == "base":
            base = _checked_base(value)
        elif table in tables and name:
            tables[table][name] = value
        else:
            raise InputError(
                f"--set {shown(key)}: the key must be one of train.KEY, data.KEY, limits.KEY, "
                "args.KEY, base"
            )
    return tables, base


def _checked_base(value: Any) -> Base:
    if value not in get_args(Base):
        raise InputError(
            f"--set base: must be one of {', '.join(get_args(Base))} (given: {shown(value)})"
        )
    return value


def check_names(
    experiment: Experiment, methods: Mapping[str, MethodType], tasks: Mapping[str, TaskType]
) -> None:
    """Raises InputError on a method or task that does not exist."""
    names = {entry.name for entry in experiment.task}
    for arm in experiment.arm:
        if arm.method not in methods:
            raise unknown("method", arm.method, methods)
        for name in arm.on:
            if name not in names:
                raise unknown(f"task in arm {shown(arm.method)}: on", name, names)
    for name in names:
        if name not in tasks:
            raise unknown("task", name, tasks)


def _pooling(experiment: Experiment, entry: TaskEntry, model: str, kind: str) -> Pooling:
    """What a classifier's head reads on a task; "model" where there is none."""
    given = entry.pooling or experiment.pooling
    if kind == "generation":
        if given == "mean":
            raise InputError(
                f'task {shown(entry.name)}: pooling = "mean" is for classification and regression: '
                "a language model has no head on a pooled text"
            )
        return "model"
    return given or ("mean" if model in SENTENCE_ENCODERS else "model")


def _train_spec(values: dict[str, Any], auto_precision: Precision, where: str) -> TrainSpec:
    """The training settings of a run. Their precision is never "auto", since the precision that it
    comes to is part of the run's id."""
    if "dtype" in values:
        raise InputError(
            f'{where}: dtype: has become precision: "float32", "bf16-mixed" or "bf16" '
            f"(given: dtype = {shown(values['dtype'])})"
        )
    precisions = ("auto", *get_args(Precision))
    if values["precision"] not in precisions:
        raise InputError(
            f"{where}: precision: must be one of {', '.join(precisions)} "
            f"(given: {shown(values['precision'])})"
        )
    if values["precision"] == "auto":
        values = values | {"precision": auto_precision}
    return validated(TrainSpec, values, where)
