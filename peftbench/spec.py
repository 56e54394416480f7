"""What is to be run: experiment files, and the frozen, complete spec of each single run in them."""

import hashlib
import itertools
import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from peftbench.errors import InputError, unknown

Split = Literal["valid", "test"]
Sampler = Literal["tpe", "random", "grid"]
Model = TypeVar("Model", bound=BaseModel)


class Frozen(BaseModel):
    """Immutable; refuses unknown keys, values that do not fit their type, infinities and NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, serialize_by_alias=True)


class TrainSpec(Frozen):
    """How a run trains. Shared by all arms of an experiment but for what an arm says itself (its learning rate, as a rule)."""

    steps: PositiveInt = 100
    batch_size: PositiveInt = 16  # examples per optimizer step
    lr: PositiveFloat  # peak learning rate of the method's own parameters
    head_lr: PositiveFloat = 1e-3  # peak learning rate of a classification head, a group of its own for every method
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup: float = Field(0.06, ge=0, lt=1)  # part of the steps
    weight_decay: NonNegativeFloat = 0.0
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    eps: NonNegativeFloat = 1e-8
    clip: PositiveFloat | None = 1.0  # maximum global gradient norm; None: no clipping
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # of the base weights; auto: bfloat16 on CUDA that has it, else float32
    eval_every: PositiveInt | None = None  # steps between evaluations of valid nll; None: at the end only


class DataSpec(Frozen):
    """How much of a task's data a run uses; None means all of it."""

    train: PositiveInt | None = None  # examples
    valid: PositiveInt | None = None  # examples
    test: PositiveInt | None = None  # examples
    generate: NonNegativeInt | None = None  # of the scored examples, how many are answered by generation
    max_length: PositiveInt = 512  # tokens; longer examples are cut, and the record counts them; a prompt may fill the model's window
    max_new_tokens: PositiveInt = 256
    shots: NonNegativeInt = 0  # solved training examples before the prompt of a generated answer; neither training nor nll sees them
    samples: PositiveInt = 1  # answers generated per example
    temperature: Annotated[float, Field(ge=0, validate_default=True)] = 0.0  # of generation; 0: greedy

    @field_validator("temperature")
    @classmethod
    def _samples_differ(cls, temperature: float, info: ValidationInfo) -> float:
        if temperature == 0 and info.data.get("samples", 1) > 1:
            raise ValueError("several samples need a temperature above 0, since greedy answers are all the same")
        return temperature


class LimitSpec(Frozen):
    """What ends a run from outside."""

    seconds: PositiveInt = 7200


class Study(Frozen):
    """The search that a run belongs to: as its trial, or with settings that it found (`trial` is None)."""

    name: str
    trials: PositiveInt  # that each arm was given
    trial: NonNegativeInt | None = None


class RunSpec(Frozen):
    """One run, complete: every default and version is filled in, so that equal specs mean equal runs."""

    model: str
    task: str
    task_version: int
    method: str
    method_version: int
    args: dict[str, Any]
    train: TrainSpec
    data: DataSpec
    seed: NonNegativeInt
    split: Split
    limits: LimitSpec
    study: Study | None = None  # where the settings come from, which changes no run

    @property
    def run_id(self) -> str:
        """16 hexadecimal digits: SHA-256 of the canonical JSON of all fields but `study`."""
        text = json.dumps(self.model_dump(mode="json", exclude={"study"}), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class TaskEntry(Frozen):
    """A task of an experiment, with what differs there from the experiment's defaults."""

    name: str
    model: str | None = None
    train: dict[str, Any] = {}
    data: dict[str, Any] = {}
    limits: dict[str, Any] = {}


class Override(Frozen):
    """What an arm changes on one task."""

    train: dict[str, Any] = {}
    args: dict[str, Any] = {}
    study: Study | None = None  # the search that found the values


class Arm(Frozen):
    """A method with its hyperparameters; `on.TASK` overrides them for one task."""

    method: str
    args: dict[str, Any] = {}
    train: dict[str, Any] = {}
    on: dict[str, Override] = {}
    space: dict[str, Any] = {}  # in a search: replaces the method's range or values of a dotted key; false leaves it as it is
    sampler: Sampler | None = None  # in a search: another than the file's


class Search(Frozen):
    """How an experiment is tuned: by `peftbench search`, on `valid`, each arm with as many trials as any other."""

    trials: PositiveInt  # for each arm on each task; a trial is a run for each of the experiment's seeds
    sampler: Sampler = "tpe"
    pruner: Literal["halving", "none"] | None = None  # halving ends trials early that are not among the best at a fraction of their steps;
    # None: halving for language models, and none where a new head is trained, whose first losses say too little (docs/log.md)
    seed: NonNegativeInt = 0  # of the sampler
    test_seeds: PositiveInt = 5  # how many fresh seeds the tuned file asks for


class Experiment(Frozen):
    """An experiment file: arms x tasks x seeds are multiplied, nothing else is."""

    question: str
    model: str | None = None
    task: tuple[TaskEntry, ...]
    arm: tuple[Arm, ...]
    seeds: tuple[NonNegativeInt, ...] = (0,)
    split: Split = "test"
    train: dict[str, Any] = {}
    data: dict[str, Any] = {}
    limits: dict[str, Any] = {}
    search: Search | None = None


class MethodType(Protocol):
    """What `expand` needs to know of a method."""

    version: int
    lr: float

    def complete(self, args: Mapping[str, Any]) -> dict[str, Any]: ...


class TaskType(Protocol):
    """What `expand` needs to know of a task."""

    version: int


def validated(kind: type[Model], values: Mapping[str, Any], where: str) -> Model:
    """`kind(**values)`, where a bad key or value becomes an InputError that names it, its place and what would be right."""
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors()[0]
        path = [str(part) for part in first["loc"]]
        if first["type"] == "extra_forbidden":
            owner = kind
            for part in path[:-1]:  # walk down to the model whose key is unknown
                owner = _inner(owner, part)
            raise InputError(str(unknown(f"key in {'.'.join([where, *path[:-1]])}", path[-1], _keys(owner)))) from error
        given = "" if first["type"] == "missing" else f" (given: {first['input']!r})"
        raise InputError(f"{where}: {'.'.join(path)}: {first['msg'][0].lower()}{first['msg'][1:]}{given}") from error


def _keys(kind: type[BaseModel]) -> list[str]:
    """The keys a person may write for `kind`: a field's alias where it has one ("lambda" cannot be a Python name)."""
    return [field.alias or name for name, field in kind.model_fields.items()]


def _inner(owner: type[BaseModel], part: str) -> type[BaseModel]:
    """The model class inside field `part` of `owner`; `owner` itself for an index or a dictionary's key."""
    field = owner.model_fields.get(part)
    if field is None:
        return owner
    candidates = [field.annotation]
    while candidates:
        kind = candidates.pop()
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
        candidates.extend(getattr(kind, "__args__", ()))
    return owner


def read_experiment(path: Path) -> Experiment:
    """The experiment in a TOML file. Raises InputError that names the file and the key."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"no such experiment file: {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not TOML: {error}") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    entries = raw.get("task")
    if isinstance(entries, list):  # task = ["cola", "rte"] is short for tables that only have a name
        raw["task"] = [{"name": entry} if isinstance(entry, str) else entry for entry in entries]
    experiment = validated(Experiment, raw, str(path))
    for key in ("task", "arm", "seeds"):
        if not getattr(experiment, key):
            raise InputError(f"{path}: {key}: at least one is needed")
    return experiment


def select(experiment: Experiment, only: Mapping[str, set[str]]) -> Experiment:
    """The part of an experiment whose method, task, model and seed are among the given ones. Raises InputError if nothing is left."""
    arms = [{"method": arm.method} for arm in experiment.arm]
    entries = [{"task": entry.name, "model": entry.model or experiment.model or ""} for entry in experiment.task]
    seeds = [{"seed": str(seed)} for seed in experiment.seeds]
    there: dict[str, set[str]] = {}
    for facts in [*arms, *entries, *seeds]:
        for key, value in facts.items():
            there.setdefault(key, set()).add(value)
    for key, values in only.items():
        if key not in there:
            raise unknown("key in --only", key, there)
        for value in values - there[key]:
            raise unknown(f"{key} in --only", value, there[key])

    def wanted(facts: Mapping[str, str]) -> bool:
        return all(value in only.get(key, {value}) for key, value in facts.items())

    chosen = {
        "arm": tuple(arm for arm, facts in zip(experiment.arm, arms, strict=True) if wanted(facts)),
        "task": tuple(entry for entry, facts in zip(experiment.task, entries, strict=True) if wanted(facts)),
        "seeds": tuple(seed for seed, facts in zip(experiment.seeds, seeds, strict=True) if wanted(facts)),
    }
    if not chosen["task"]:
        raise InputError("--only leaves no task of the experiment: none has both that name and that model")
    return experiment.model_copy(update=chosen)


def expand(
    experiment: Experiment,
    methods: Mapping[str, MethodType],
    tasks: Mapping[str, TaskType],
    settings: Iterable[tuple[str, Any]] = (),
) -> list[RunSpec]:
    """Every run of an experiment: seed by seed, within a seed task by task, and within a task all arms in turn.

    settings: (dotted key, value) pairs such as ("train.steps", 20), which win over the file.
    Raises InputError on a name, key or value that does not exist.
    """
    forced: dict[str, dict[str, Any]] = {"train": {}, "data": {}, "limits": {}, "args": {}}
    for key, value in settings:
        table, _, name = key.partition(".")
        if table not in forced or not name:
            raise InputError(f"--set {key}: the key must be one of train.KEY, data.KEY, limits.KEY, args.KEY")
        forced[table][name] = value
    names = {entry.name for entry in experiment.task}
    for arm in experiment.arm:
        if arm.method not in methods:
            raise unknown("method", arm.method, methods)
        for name in arm.on:
            if name not in names:
                raise unknown(f"task in arm {arm.method!r}: on", name, names)
    specs: dict[str, RunSpec] = {}
    for seed, entry in itertools.product(experiment.seeds, experiment.task):
        if entry.name not in tasks:
            raise unknown("task", entry.name, tasks)
        model = entry.model or experiment.model
        if model is None:
            raise InputError(f"task {entry.name!r} has no model: give one there or at the top of the file")
        where = f"task {entry.name!r}"
        data = validated(DataSpec, experiment.data | entry.data | forced["data"], f"{where}: data")
        limits = validated(LimitSpec, experiment.limits | entry.limits | forced["limits"], f"{where}: limits")
        for arm in experiment.arm:
            method, on = methods[arm.method], arm.on.get(entry.name, Override())
            train = {"lr": method.lr} | experiment.train | entry.train | arm.train | on.train | forced["train"]
            spec = RunSpec(
                model=model,
                task=entry.name,
                task_version=tasks[entry.name].version,
                method=arm.method,
                method_version=method.version,
                args=method.complete(arm.args | on.args | forced["args"]),
                train=validated(TrainSpec, train, f"arm {arm.method!r} on {where}: train"),
                data=data,
                seed=seed,
                split=experiment.split,
                limits=limits,
                study=on.study,
            )
            if spec.run_id in specs:
                raise InputError(f"arm {arm.method!r} on {where}, seed {seed}: the same run stands in the experiment twice")
            specs[spec.run_id] = spec
    return list(specs.values())
