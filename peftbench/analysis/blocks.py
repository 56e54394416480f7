"""Runs, the arms they are runs of, and blocks of arms that may be compared."""

import json
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeVar

from peftbench.record import Record
from peftbench.spec import Base, DataSpec, Pooling, Precision, RunSpec, ScoredSplit
from peftbench.store import run_key
from peftbench.wording import method_name

# The order of rows, legends and colours; other methods follow in alphabetical order.
METHOD_ORDER = ("full", "frozen", "lora", "lora-fa", "vera", "delta-lora", "lora+")
SPARE_LOAD = 0.5  # load average beyond a run's own threads with which its seconds still count

Value = Literal["metric", "nll"]
Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, eq=False)
class Run:
    """A record that counts, and what is asked of it."""

    record: Record

    def __repr__(self) -> str:
        return f"Run({self.key}, {self.method}, seed {self.seed})"

    @cached_property
    def key(self) -> str:
        """`<device folder>/<run id>`, which no other run of the store has."""
        return run_key(self.record)

    @property
    def seed(self) -> int:
        return self.record.spec.seed

    @property
    def method(self) -> str:
        """As it is called: one of peft's by what it is."""
        return method_name(self.record.spec.method, self.record.spec.args)

    @property
    def done(self) -> bool:
        return self.record.status == "done"

    @property
    def trials(self) -> int | None:
        """Trials of the study that found the run's settings; None if none did."""
        return self.record.spec.study.trials if self.record.spec.study else None

    @property
    def examples(self) -> int | None:
        """Training examples."""
        return self.record.data.counts.get("train") if self.record.data else None

    @property
    def settings(self) -> dict[str, Any]:
        return settings_of(self.record.spec)

    @cached_property
    def settings_key(self) -> str:
        """What the runs of one arm have in common: equal for equal settings only."""
        spec = self.record.spec
        return canonical([spec.method, spec.method_version, spec.args, spec.train.model_dump()])

    def value(self, name: Value) -> float | None:
        """The primary metric, or nll per supervised token."""
        metric = self.record.primary if name == "metric" else "nll"
        return self.record.metrics.get(metric)

    @property
    def alone(self) -> bool:
        """Whether the run had the machine to itself, so that its seconds count: no other run was
        given a place there, and at its start and end the load average was no more than SPARE_LOAD
        above the threads that it uses itself. What is unknown is taken for none."""
        environment = self.record.environment
        if environment.runs_at_once is not None and environment.runs_at_once > 1:
            return False
        loads = (environment.load_at_start, environment.load_at_end)
        return all(load is None or load <= environment.threads + SPARE_LOAD for load in loads)


@dataclass(frozen=True, eq=False)
class Arm:
    """A method with its settings in one block: one run for each seed."""

    label: str  # the method, with what tells it from other arms of that method in the block
    runs: tuple[Run, ...]  # in the order of their seeds

    def __repr__(self) -> str:
        return f"Arm({self.label}, {len(self.runs)} runs)"

    @property
    def spec(self) -> RunSpec:
        """Of the first run: method, args and train are those of all of them."""
        return self.runs[0].record.spec

    @property
    def method(self) -> str:
        return self.runs[0].method

    @cached_property
    def done(self) -> tuple[Run, ...]:
        return tuple(run for run in self.runs if run.done)

    @cached_property
    def timed(self) -> tuple[Run, ...]:
        """The runs whose seconds count."""
        return tuple(run for run in self.done if run.alone)

    @property
    def trials(self) -> int | None:
        """The most trials that a search spent on the settings; None: they were not tuned."""
        return max((run.trials for run in self.runs if run.trials is not None), default=None)

    @property
    def settings(self) -> dict[str, Any]:
        return self.runs[0].settings


@dataclass(frozen=True)
class Question:
    """What runs must agree in so that their results may be compared: the model, what is asked of
    it, and the training settings that all arms share."""

    model: str
    pooling: Pooling
    task: str
    task_version: int
    split: ScoredSplit
    data: DataSpec
    base: Base
    precision: Precision
    steps: int
    batch_size: int

    @classmethod
    def of(cls, spec: RunSpec) -> "Question":
        return cls(
            model=spec.model,
            pooling=spec.pooling,
            task=spec.task,
            task_version=spec.task_version,
            split=spec.split,
            data=spec.data,
            base=spec.base,
            precision=spec.train.precision,
            steps=spec.train.steps,
            batch_size=spec.train.batch_size,
        )


@dataclass(frozen=True)
class Place:
    """Where seconds and bytes were measured: they are compared on one device and software only."""

    device: str  # cpu, cuda
    device_name: str
    stack: str

    @classmethod
    def of(cls, record: Record) -> "Place":
        environment = record.environment
        stack = f"torch {environment.torch}, transformers {environment.transformers}"
        if environment.bitsandbytes:
            stack += f", bitsandbytes {environment.bitsandbytes}"
        return cls(record.device, environment.device_name, stack)

    def __str__(self) -> str:
        return f"{self.device}: {self.device_name}"


@dataclass(frozen=True, eq=False)
class Block:
    """Arms that may be compared.

    A quality block pools devices: seeds of one arm may come from several machines. A cost block is
    of one place.
    """

    question: Question
    arms: tuple[Arm, ...]
    place: Place | None = None
    repeats: tuple[tuple[str, int], ...] = ()
    # (label, seed) of what was done several times with results that differ by more than rounding

    def __repr__(self) -> str:
        question, place = self.question, f", {self.place}" if self.place else ""
        return f"Block({question.task}, {question.model}{place}, {len(self.arms)} arms)"

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        return tuple(run for arm in self.arms for run in arm.runs)

    @property
    def primary(self) -> str:
        return self.arms[0].runs[0].record.primary

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """The devices and software of its runs, in their order."""
        return tuple(dict.fromkeys(Place.of(run.record) for run in self.runs))

    def first(self, method: str) -> Arm | None:
        """The first arm of a method that has a run that is done."""
        return next((arm for arm in self.arms if arm.method == method and arm.done), None)

    def same_settings(self, arm: Arm) -> Arm | None:
        """Its arm with the settings of an arm of another block of the same question."""
        return next((own for own in self.arms if own.label == arm.label), None)

    def only(self, arms: Iterable[Arm]) -> "Block":
        """The block with some of its arms."""
        return Block(self.question, tuple(arms), self.place, self.repeats)


def settings_of(spec: RunSpec) -> dict[str, Any]:
    """The method's args by their names, and how it trains as train.NAME."""
    args = dict(sorted(spec.args.items()))
    return args | {f"train.{name}": value for name, value in spec.train}


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Items by a key, both in the order in which they first come."""
    groups: defaultdict[Key, list[Item]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return dict(groups)


def canonical(value: Any) -> str:
    """JSON that is the same for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def method_order(method: str) -> tuple[int, str]:
    """Where a method stands among others."""
    known = method in METHOD_ORDER
    return (METHOD_ORDER.index(method), "") if known else (len(METHOD_ORDER), method)
