"""A study, the tuning of one arm on one task: what it varies, its name, and the runs of a trial."""

import hashlib
import itertools
import json
import math
from collections import Counter
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from peftbench.errors import InputError
from peftbench.experiment import (
    ArmEntry,
    Experiment,
    Override,
    Sampler,
    SearchTable,
    TaskEntry,
    check_names,
    expand,
)
from peftbench.methods import METHODS
from peftbench.methods.base import Range
from peftbench.spec import Precision, RunSpec, StudyReference
from peftbench.tasks import TASKS
from peftbench.tuning.bracket import round_start
from peftbench.tuning.space import (
    Dimensions,
    Values,
    corners,
    default_sampler,
    dimensions_of,
    limited,
)

# Of the numbers in a table [search]: more would fill the storage before the first trial.
MOST = {"trials": 10_000, "test_seeds": 10_000, "seed": 2**63 - 1}
VALIDATIONS = 9  # in a trial that may be ended early: at 1/9, 2/9, ... of its steps
# The part of a study's trials that draws from the ranges as they are; the others draw from ranges
# that were widened where a best value lay on an edge.
FIRST_TRIALS = 2 / 3


@dataclass(frozen=True)
class Study:
    """One arm on one task, and what is varied there. Optuna's study of the same name holds its
    trials."""

    stem: str  # with which the study's name begins: the experiment file's name without its suffix
    experiment: Experiment
    arm: ArmEntry
    task: TaskEntry
    auto_precision: Precision

    def __str__(self) -> str:
        args = ", ".join(f"{key} {value}" for key, value in self.arm.args.items())
        return f"{self.arm.method}{f' ({args})' if args else ''} on {self.task.name}"

    @cached_property
    def name(self) -> str:
        """Experiment file, task, method, and a digest of all that the study's result depends on."""
        return self.name_with(self.sampler)

    def name_with(self, sampler: Sampler) -> str:
        """The name of the same study with a sampler."""
        runs = [spec.identity() for spec in self.runs({})]
        for run in runs:
            del run["limits"]
        dimensions = {
            key: asdict(dimension) if isinstance(dimension, Range) else dimension
            for key, dimension in self.given.items()
        }
        # as it was when "tpe" was the default for all: names of studies with it stay what they are
        table = self.search.model_dump() | {"sampler": self.search.sampler or "tpe"}
        content = [runs, table, sampler, dimensions]
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
        return f"{self.stem} {self.task.name} {self.arm.method} {digest}"

    @property
    def search(self) -> SearchTable:
        return search_table(self.experiment)

    @property
    def given_sampler(self) -> Sampler | None:
        """What the file says."""
        return self.arm.sampler or self.search.sampler

    @property
    def sampler(self) -> Sampler:
        return self.given_sampler or default_sampler(self.given)

    @cached_property
    def given(self) -> Dimensions:
        """What is varied, as the method and the file have it. Raises InputError that names the arm
        and the key."""
        return dimensions_of(self.arm, self.task.name, self.given_sampler)

    @cached_property
    def dimensions(self) -> Dimensions:
        """What is varied, with the limits of the keys. Empty: nothing to tune."""
        return limited(self.given, METHODS[self.arm.method].of(self.arm.args))

    @property
    def first_trials(self) -> int:
        """How many trials come before the ranges may be widened."""
        return math.ceil(FIRST_TRIALS * self.search.trials)

    def earlier_trials(self, number: int) -> int:
        """How many of its trials must have ended before one of them may begin, beside the first
        ones: those of the rounds before its own."""
        return round_start(number, self.first_trials) if self.sampler == "bracket" else 0

    @property
    def may_prune(self) -> bool:
        """Whether trials may be ended early. A grid's never are: all of its points are wanted."""
        generates = TASKS[self.task.name].kind == "generation"
        pruner = self.search.pruner or ("halving" if generates else "none")
        return pruner != "none" and self.sampler != "grid"

    def reference(self, trial: int | None = None) -> StudyReference:
        """What a run's spec says of this study."""
        return StudyReference(name=self.name, trials=self.search.trials, trial=trial)

    def override(self, values: Values, reference: StudyReference | None) -> Override:
        """What the arm changes on this task, with these values."""
        own = self.arm.on.get(self.task.name, Override())
        tables: dict[str, dict[str, Any]] = {"train": dict(own.train), "args": dict(own.args)}
        for key, value in values.items():
            table, _, name = key.partition(".")
            tables[table][name] = value
        return Override(**tables, study=reference)

    def runs(self, values: Values, reference: StudyReference | None = None) -> list[RunSpec]:
        """The runs of a trial on `valid`, one for each of the experiment's seeds. Raises InputError
        where a value is impossible."""
        on = {self.task.name: self.override(values, reference)}
        arm = self.arm.model_copy(update={"on": on})
        changes = {"arm": (arm,), "task": (self.task,), "split": "valid"}
        experiment = self.experiment.model_copy(update=changes)
        specs = expand(experiment, METHODS, TASKS, auto_precision=self.auto_precision)
        return [_validating(spec) for spec in specs] if self.may_prune else specs

    def points(self) -> list[Values]:
        """What each trial is given before it begins, in order: a point of a grid; else the first
        trial the values that the arm has without a search, where its ranges hold them."""
        if self.sampler == "grid":
            lists = {key: grid for key, grid in self.dimensions.items() if isinstance(grid, tuple)}
            points = itertools.product(*lists.values())
            return [dict(zip(lists, point, strict=True)) for point in points]
        spec = self.runs({})[0]
        tables = {"train": spec.train.model_dump(), "args": spec.args}
        start: dict[str, float] = {}
        for key, range in self.dimensions.items():
            table, _, name = key.partition(".")
            value = tables[table][name]
            if isinstance(range, Range) and value is not None and range.low <= value <= range.high:
                start[key] = value
        return [start, *[{}] * (self.search.trials - 1)]


def _validating(spec: RunSpec) -> RunSpec:
    """The spec with the validations at which a pruner decides, if it has none of its own."""
    if spec.train.eval_every:
        return spec
    every = max(1, math.ceil(spec.train.steps / VALIDATIONS))
    return spec.model_copy(update={"train": spec.train.model_copy(update={"eval_every": every})})


def search_table(experiment: Experiment) -> SearchTable:
    """The experiment's table [search]. Raises InputError if it has none."""
    if experiment.search is None:
        raise InputError(
            "the experiment has no table [search], which says how many trials each arm gets: "
            "add one with trials = N, or carry out the experiment as it is with `peftbench run`"
        )
    return experiment.search


def studies(experiment: Experiment, stem: str, auto_precision: Precision) -> list[Study]:
    """Every arm on every task, also those with nothing to tune.

    stem: with which the studies' names begin, as a rule the experiment file's stem.
    auto_precision: what the precision "auto" comes to on the device that the trials run on.
    Raises InputError that names the arm and the key, or the task, that cannot be searched.
    """
    search = search_table(experiment)
    for key, most in MOST.items():
        if getattr(search, key) > most:
            raise InputError(f"search.{key}: at most {most} (given: more)")
    check_names(experiment, METHODS, TASKS)
    for name, times in Counter(task.name for task in experiment.task).items():
        if times > 1:
            raise InputError(
                f"task {name!r} is in the search {times} times, and the tuned file has one place "
                "for the values found on a task: write one search file for each model"
            )
    result: list[Study] = []
    for task, arm in itertools.product(experiment.task, experiment.arm):
        study = Study(stem, experiment, arm, task, auto_precision)
        grid = study.sampler == "grid"
        if grid and study.dimensions:
            lists = [values for values in study.dimensions.values() if isinstance(values, tuple)]
            if (size := math.prod(map(len, lists))) != search.trials:
                raise InputError(
                    f"arm {arm.method!r}: its grid has {size} points, and search.trials gives "
                    f"every arm {search.trials}: make them equal"
                )
        for point in study.points() if grid else corners(study.dimensions):
            study.runs(point)
        result.append(study)
    return result
