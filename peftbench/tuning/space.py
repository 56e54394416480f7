"""What a search varies: the dimensions of an arm on a task, the runs of a trial, and ranges widened
where the best value lies at an end."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from peftbench.errors import InputError, unknown
from peftbench.experiment import (
    ArmEntry,
    Experiment,
    Override,
    Sampler,
    SearchTable,
    TaskEntry,
    expand,
)
from peftbench.methods import METHODS
from peftbench.methods.base import Range
from peftbench.spec import RunSpec, StudyReference, TrainSpec
from peftbench.tasks import TASKS
from peftbench.tasks.base import Kind

# of a range's width (of its logarithm's, where it is logarithmic): a best value closer to an end
# lies on the edge
END = 0.05
VALIDATIONS = 9  # during a trial that may be ended early: at 1/9, 2/9, ... of its steps
Grid = tuple[float, ...]
Dimensions = Mapping[str, Range | Grid]  # dotted names as in `--set`
Values = Mapping[str, float]
Side = tuple[str, bool]  # a dimension, and whether it is its high end


@dataclass(frozen=True)
class Quest:
    """One arm on one task, and what is varied there."""

    arm: ArmEntry
    entry: TaskEntry
    sampler: Sampler
    dimensions: Dimensions

    def __str__(self) -> str:
        args = ", ".join(f"{key} {value}" for key, value in self.arm.args.items())
        return f"{self.arm.method}{f' ({args})' if args else ''} on {self.entry.name}"

    def points(self) -> list[Values]:
        """The points of a grid, in order."""
        return [
            dict(zip(self.dimensions, point, strict=True))
            for point in itertools.product(*self.dimensions.values())
        ]  # type: ignore[arg-type]

    def settled(self, values: Values, study: StudyReference | None) -> ArmEntry:
        """The arm with these values on this task."""
        before = self.arm.on.get(self.entry.name, Override())
        parts: dict[str, dict[str, Any]] = {"train": dict(before.train), "args": dict(before.args)}
        for key, value in values.items():
            table, _, name = key.partition(".")
            parts[table][name] = value
        return self.arm.model_copy(update={"on": {self.entry.name: Override(**parts, study=study)}})


def quests(experiment: Experiment) -> list[Quest]:
    """Every arm on every task. Raises InputError that names the arm and the key where something
    cannot be searched."""
    search = search_of(experiment)
    found: list[Quest] = []
    for entry, arm in itertools.product(experiment.task, experiment.arm):
        if entry.name not in TASKS:
            raise unknown("task", entry.name, TASKS)
        if arm.method not in METHODS:
            raise unknown("method", arm.method, METHODS)
        sampler = arm.sampler or search.sampler
        quest = Quest(
            arm,
            entry,
            sampler,
            dimensions(arm, METHODS[arm.method].space, TASKS[entry.name].kind, sampler),
        )
        points = quest.points() if sampler == "grid" else []
        if points and len(points) != search.trials:
            raise InputError(
                f"arm {arm.method!r}: its grid has {len(points)} points, and search.trials gives every arm {search.trials}: make them equal"
            )
        for values in points or _ends(quest):
            trial_runs(experiment, quest, values, None)
        found.append(quest)
    return found


def dimensions(
    arm: ArmEntry, space: Mapping[str, Range], kind: Kind, sampler: Sampler
) -> Dimensions:
    """The method's space with the arm's own entries laid over it; without the head's rate where the
    task has no head."""
    found: dict[str, Range | Grid] = {
        key: value for key, value in space.items() if kind != "generation" or key != "train.head_lr"
    }
    given = arm.space
    for key, value in given.items():
        where = f"arm {arm.method!r}: space: {key}"
        _check_key(key, where, METHODS[arm.method])
        if value is False:
            found.pop(key, None)
        else:
            found[key] = _dimension(value, where, space.get(key))
    for key, value in found.items():
        if (sampler == "grid") != isinstance(value, tuple):
            right = (
                "a list of values, such as [1, 4, 16]"
                if sampler == "grid"
                else "a range, such as { low = 1e-4, high = 1e-2, log = true }"
            )
            raise InputError(
                f"arm {arm.method!r}: space: {key}: sampler {sampler!r} needs {right}, or false where it is not varied"
            )
    return found


def _check_key(key: str, where: str, method: Any) -> None:
    """Raises InputError where a key is of no number that a run has."""
    table, _, name = key.partition(".")
    if table == "args":
        known = {field.alias or each for each, field in method.model_fields.items()}
    elif table == "train":
        known = {
            each
            for each, field in TrainSpec.model_fields.items()
            if each not in ("schedule", "dtype")
        }
    else:
        raise InputError(f'{where}: a key is "train.KEY" or "args.KEY", in quotation marks')
    if name not in known:
        raise unknown(f"key in {where.rpartition(':')[0]}: {table}", name, known)


def _dimension(given: Any, where: str, known: Range | None) -> Range | Grid:
    """A range or a grid's values as an experiment file writes them; ends of the method's own range
    hold for it, too."""

    def number(value: Any) -> bool:
        return (
            isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        )

    if isinstance(given, list):
        if not given or not all(map(number, given)) or len(set(given)) < len(given):
            raise InputError(f"{where}: a list of different numbers is needed (given: {given!r})")
        return tuple(given)
    if not isinstance(given, dict) or not {"low", "high"} <= set(given):
        raise InputError(
            f"{where}: write {{ low = ..., high = ..., log = true }}, a list of values, or false (given: {given!r})"
        )
    flags, numbers = {"log", "integer"}, {"low", "high", "least", "most"}
    for key, value in given.items():
        if key not in flags | numbers:
            raise unknown(f"key in {where}", key, flags | numbers)
        if not (isinstance(value, bool) if key in flags else number(value)):
            raise InputError(
                f"{where}: {key}: {'true or false' if key in flags else 'a number'} is needed (given: {value!r})"
            )
    ends = {"integer": known.integer, "least": known.least, "most": known.most} if known else {}
    try:
        return Range(**ends | given)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _ends(quest: Quest) -> list[Values]:
    """The lowest and the highest values of all dimensions."""

    def end(high: bool) -> Values:
        ranges = {key: value for key, value in quest.dimensions.items() if isinstance(value, Range)}
        return {
            key: (int if value.integer else float)(value.high if high else value.low)
            for key, value in ranges.items()
        }

    return [end(False), end(True)]


def search_of(experiment: Experiment) -> SearchTable:
    """The experiment's table [search]. Raises InputError if it has none."""
    if experiment.search is None:
        raise InputError(
            "the experiment is no search: it needs a table [search] with trials = N; `peftbench run` carries it out as it is"
        )
    return experiment.search


def trial_runs(
    experiment: Experiment, quest: Quest, values: Values, study: StudyReference | None
) -> list[RunSpec]:
    """The runs of a trial on `valid`, one for each of the experiment's seeds. Raises InputError
    where a value is impossible."""
    one = experiment.model_copy(
        update={"arm": (quest.settled(values, study),), "task": (quest.entry,), "split": "valid"}
    )
    specs = expand(one, METHODS, TASKS)
    if not may_prune(search_of(experiment), quest):
        return specs
    return [
        spec
        if spec.train.eval_every
        else _validating(spec, max(1, math.ceil(spec.train.steps / VALIDATIONS)))
        for spec in specs
    ]


def starting_point(experiment: Experiment, quest: Quest) -> Values:
    """The values that the arm has without any search, where its ranges hold them: every arm's first
    trial."""
    spec = trial_runs(experiment, quest, {}, None)[0]
    tables = {"train": spec.train.model_dump(), "args": spec.args}
    values = {key: tables[key.partition(".")[0]][key.partition(".")[2]] for key in quest.dimensions}
    ranges = {key: range for key, range in quest.dimensions.items() if isinstance(range, Range)}
    return {
        key: values[key]
        for key, range in ranges.items()
        if values[key] is not None and range.low <= values[key] <= range.high
    }


def _validating(spec: RunSpec, every: int) -> RunSpec:
    return spec.model_copy(update={"train": spec.train.model_copy(update={"eval_every": every})})


def may_prune(search: SearchTable, quest: Quest) -> bool:
    """Whether trials may be ended early. A grid's never are: it is there to be looked at."""
    chosen = search.pruner or (
        "halving" if TASKS[quest.entry.name].kind == "generation" else "none"
    )
    return chosen != "none" and quest.sampler != "grid"


def edges(dimensions: Dimensions, best: Values) -> set[Side]:
    """The dimensions whose best value lies on an edge, and on which; ends that no range may pass
    are none. A grid's edges are its ends, where there is anything between them."""
    ends = {key: _at_ends(range, best[key]) for key, range in dimensions.items() if key in best}
    return {
        (key, high)
        for key, pair in ends.items()
        for high, there in zip((False, True), pair, strict=True)
        if there
    }


def _at_ends(range: Range | Grid, value: float) -> tuple[bool, bool]:
    """Whether a value lies at the low end, and at the high one."""
    if not isinstance(range, Range):
        return len(range) > 2 and value == min(range), len(range) > 2 and value == max(range)
    scale = math.log if range.log else float
    place = (scale(value) - scale(range.low)) / (scale(range.high) - scale(range.low))
    return place <= END and range.low != range.least, place >= 1 - END and range.high != range.most


def widened(dimensions: Dimensions, sides: set[Side]) -> Dimensions:
    """The ranges with some of their ends moved outwards: logarithmic ones tenfold, others by their
    width."""
    wide = dict(dimensions)
    for key, high in sorted(sides):
        range = wide.get(key)
        if isinstance(range, Range):
            if high:
                end = range.high * 10 if range.log else 2 * range.high - range.low
                wide[key] = replace(range, high=end if range.most is None else min(end, range.most))
            else:
                end = range.low / 10 if range.log else 2 * range.low - range.high
                wide[key] = replace(
                    range, low=end if range.least is None else max(end, range.least)
                )
    return wide


def fresh_seeds(tuned_on: Sequence[int], n: int) -> list[int]:
    """The n smallest seeds that none of the given ones is."""
    return list(
        itertools.islice((seed for seed in itertools.count() if seed not in set(tuned_on)), n)
    )
