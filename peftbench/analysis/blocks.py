"""Runs, arms and blocks: which records count, which may be compared, and what arms are called."""

import json
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from peftbench.record import Record
from peftbench.spec import DataSpec, Dtype, RunSpec, ScoredSplit, TrainSpec
from peftbench.store import device_folder, run_key
from peftbench.wording import Lang, Words

# The order of rows, legends and colours; other methods follow in alphabetical order.
METHOD_ORDER = ("full", "frozen", "lora", "lora-fa", "vera", "delta-lora", "lora+")
SPARE_LOAD = 0.5  # load average beyond a run's own threads with which its seconds still count
ROUNDING = 1e-4  # relative: results of one run that differ by more differ by more than rounding

Purpose = Literal["final", "tuning"]
Value = Literal["metric", "nll"]
Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, eq=False)
class Run:
    """A record that counts, and what is asked of it."""

    record: Record

    @property
    def key(self) -> str:
        """`<device folder>/<run id>`, which no other run of the store has."""
        return run_key(self.record)

    @property
    def seed(self) -> int:
        return self.record.spec.seed

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

    def value(self, name: Value) -> float | None:
        """The primary metric, or nll per supervised token."""
        metric = self.record.primary if name == "metric" else "nll"
        return self.record.metrics.get(metric)

    @property
    def alone(self) -> bool:
        """Whether the run had the machine to itself, so that its seconds count: at its start and
        end the load average was no more than SPARE_LOAD above the threads that it uses itself. An
        unknown load is taken for none."""
        environment = self.record.environment
        loads = (environment.load_at_start, environment.load_at_end)
        return all(load is None or load <= environment.threads + SPARE_LOAD for load in loads)


@dataclass(frozen=True, eq=False)
class Arm:
    """A method with its settings in one block: one run for each seed."""

    label: str  # the method, with what tells it from other arms of that method in the block
    runs: tuple[Run, ...]  # in the order of their seeds

    @property
    def spec(self) -> RunSpec:
        """Of the first run: method, args and train are those of all of them."""
        return self.runs[0].record.spec

    @property
    def method(self) -> str:
        return self.spec.method

    @property
    def done(self) -> tuple[Run, ...]:
        return tuple(run for run in self.runs if run.done)

    @property
    def timed(self) -> tuple[Run, ...]:
        """The runs whose seconds count."""
        return tuple(run for run in self.done if run.alone)

    @property
    def trials(self) -> int | None:
        """The most trials that a search spent on the settings; None: they were not tuned."""
        return max((run.trials for run in self.runs if run.trials is not None), default=None)

    @property
    def settings(self) -> dict[str, Any]:
        """The method's args by their names, and how it trains as train.NAME."""
        return _settings(self.spec)


@dataclass(frozen=True)
class Question:
    """What runs must agree in so that their results may be compared: the model, what is asked of
    it, and the training settings that all arms share."""

    model: str
    task: str
    task_version: int
    split: ScoredSplit
    data: DataSpec
    dtype: Dtype
    steps: int
    batch_size: int

    @classmethod
    def of(cls, spec: RunSpec) -> "Question":
        names = ("model", "task", "task_version", "split", "data")
        shared = {name: getattr(spec.train, name) for name in ("dtype", "steps", "batch_size")}
        return cls(**{name: getattr(spec, name) for name in names}, **shared)


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
        return cls(record.device, environment.device_name, stack)

    @property
    def folder(self) -> str:
        return device_folder(self.device, self.device_name)

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

    @property
    def runs(self) -> tuple[Run, ...]:
        return tuple(run for arm in self.arms for run in arm.runs)

    @property
    def primary(self) -> str:
        return self.arms[0].runs[0].record.primary

    @property
    def places(self) -> tuple[Place, ...]:
        """The devices and software of its runs, in their order."""
        return tuple(dict.fromkeys(Place.of(run.record) for run in self.runs))

    @property
    def fingerprints(self) -> set[str]:
        """Of the examples that its runs saw."""
        return {run.record.data.fingerprint for run in self.runs if run.record.data}

    def first(self, method: str) -> Arm | None:
        """The first arm of a method that has a run that is done."""
        return next((arm for arm in self.arms if arm.method == method and arm.done), None)

    def same_settings(self, arm: Arm) -> Arm | None:
        """Its arm with the settings of an arm of another block of the same question."""
        return next((own for own in self.arms if own.label == arm.label), None)

    def only(self, arms: Iterable[Arm]) -> "Block":
        """The block with some of its arms."""
        return Block(self.question, tuple(arms), self.place, self.repeats)


def counted(records: Iterable[Record], purpose: Purpose) -> list[Run]:
    """The runs that count. final: all that answer a question, so none that is a trial of a search.
    tuning: all that were scored on valid, the trials among them."""
    return [Run(record) for record in records if _counts(record.spec, purpose)]


def _counts(spec: RunSpec, purpose: Purpose) -> bool:
    is_trial = spec.study is not None and spec.study.trial is not None
    return spec.split == "valid" if purpose == "tuning" else not is_trial


def quality_blocks(runs: Iterable[Run]) -> tuple[Block, ...]:
    """Blocks for what models have learned. A seed that was done several times counts once, as it
    was first done."""
    return _blocks(runs, lambda run: None)


def cost_blocks(runs: Iterable[Run]) -> tuple[Block, ...]:
    """Blocks for parameters, bytes and seconds: of one device and software each. Seconds count of
    `Arm.timed` only."""
    return _blocks(runs, lambda run: Place.of(run.record))


def _blocks(runs: Iterable[Run], place: Callable[[Run], Place | None]) -> tuple[Block, ...]:
    by_question = _by_question(runs)
    blocks: list[Block] = []
    for question, members in by_question.items():
        labels = arm_labels(grouped(members, _settings_key))
        for where, local in grouped(members, place).items():
            arms, repeats = [], []
            for key, repeated in grouped(local, _settings_key).items():
                by_seed = grouped(repeated, lambda run: run.seed)
                arms.append(Arm(labels[key], tuple(_first(same) for same in by_seed.values())))
                repeats += [(labels[key], seed) for seed, same in by_seed.items() if _differ(same)]
            blocks.append(Block(question, tuple(arms), where, tuple(repeats)))
    return tuple(blocks)


def labelled(runs: Iterable[Run]) -> dict[Run, str]:
    """Each run, repeated ones too, with the label that its arm has among all of them; in the order
    of blocks, methods, settings and seeds."""
    labels: dict[Run, str] = {}
    for members in _by_question(runs).values():
        arms = grouped(members, _settings_key)
        of_arms = arm_labels(arms)
        labels |= {run: of_arms[key] for key, same in arms.items() for run in same}
    return labels


def _by_question(runs: Iterable[Run]) -> dict[Question, list[Run]]:
    return grouped(sorted(runs, key=_order), lambda run: Question.of(run.record.spec))


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Items by a key, both in the order in which they first come."""
    groups: defaultdict[Key, list[Item]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return dict(groups)


def _first(runs: Sequence[Run]) -> Run:
    """Of runs of one arm and seed the one that counts: the first that is done, else the first."""
    return min(runs, key=lambda run: (not run.done, run.record.started))


def _differ(runs: Sequence[Run]) -> bool:
    """Whether results of one arm and seed differ by more than rounding."""
    for name in ("metric", "nll"):
        values = [value for run in runs if run.done and (value := run.value(name)) is not None]
        if values and max(values) - min(values) > ROUNDING * max(map(abs, values)):
            return True
    return False


# -- identity and order ------------------------------------------------------------------------


def canonical(value: Any) -> str:
    """JSON that is the same for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _settings_key(run: Run) -> tuple[str, int, str, TrainSpec]:
    spec = run.record.spec
    return spec.method, spec.method_version, canonical(spec.args), spec.train


def _settings(spec: RunSpec) -> dict[str, Any]:
    args = dict(sorted(spec.args.items()))
    return args | {f"train.{name}": value for name, value in spec.train}


def method_order(method: str) -> tuple[int, str]:
    """Where a method stands among others."""
    known = method in METHOD_ORDER
    return (METHOD_ORDER.index(method), "") if known else (len(METHOD_ORDER), method)


def _order(run: Run) -> tuple[Any, ...]:
    """Where a run stands among all: by its block, its method, its settings and its seed."""
    spec = run.record.spec
    question = [
        spec.model,
        spec.task,
        spec.task_version,
        spec.split,
        _sortable(value for _, value in spec.data),
    ]
    settings = _sortable(value for _, value in [*sorted(spec.args.items()), *spec.train])
    shared = _sortable([spec.train.dtype, spec.train.steps, spec.train.batch_size])
    ends = (canonical(spec.args), spec.seed, run.record.run_id, run.key)
    return (*question, shared, method_order(spec.method), spec.method_version, settings, *ends)


def _sortable(values: Iterable[Any]) -> list[Any]:
    return [_sortable_value(value) for value in values]


def _sortable_value(value: Any) -> tuple[bool, float, str]:
    """Numbers by size, then everything else by its text."""
    number = isinstance(value, int | float)
    return not number, value if number else 0, "" if number else str(value)


# -- names -------------------------------------------------------------------------------------


def arm_labels(arms: Mapping[Key, Sequence[Run]]) -> dict[Key, str]:
    """A label for every arm of a question: the method, with as many of the args, then of the
    training settings, in which arms of that method differ as tell them apart."""
    labels: dict[Key, str] = {}
    for method, keys in grouped(arms, lambda key: arms[key][0].record.spec.method).items():
        specs = {key: arms[key][0].record.spec for key in keys}
        settings = {
            key: _settings(spec) | {"version": spec.method_version} for key, spec in specs.items()
        }
        parts: dict[Key, list[str]] = {key: [] for key in keys}
        for name in dict.fromkeys(name for key in keys for name in settings[key]):
            having = [key for key in keys if name in settings[key]]
            texts = _texts(settings[key][name] for key in having)
            longer = {key: [*parts[key]] for key in keys}
            for key in having:
                text = texts[canonical(settings[key][name])]
                longer[key].append(f"{name.removeprefix('train.')}={text}")
            if _distinct(longer.values()) > _distinct(parts.values()):
                parts = longer
        for key in keys:
            labels[key] = f"{method} ({', '.join(parts[key])})" if parts[key] else method
    return labels


def _distinct(parts: Iterable[Sequence[str]]) -> int:
    return len(set(map(tuple, parts)))


def _texts(values: Iterable[Any]) -> dict[str, str]:
    """How each value is written, by its JSON: floats with as few digits, three at least, as keep
    them distinct."""
    distinct = {canonical(value): value for value in values}
    floats = {value for value in distinct.values() if isinstance(value, float)}
    digits = next(
        n for n in range(3, 18) if len({f"{value:.{n}g}" for value in floats}) == len(floats)
    )
    return {key: _setting_text(value, digits) for key, value in distinct.items()}


def _setting_text(value: Any, digits: int) -> str:
    match value:
        case float():
            return f"{value:.{digits}g}"
        case list() | tuple():
            return "+".join(map(str, value))
        case str():
            return value
        case _:
            return canonical(value)


# -- what a block is, in words -----------------------------------------------------------------

ALL_DATA = Words("all data", "全部数据")
SPLIT = Words("{0} split", "{0} 划分")
VERSION = Words("task version {0}", "任务版本 {0}")
STEPS = Words("{0} steps of {1}", "{0} 步,批大小 {1}")
FACTS = ("model", "split", "task_version", "data", "training", "dtype", "place", "stack")


def facts(block: Block, lang: Lang = "en") -> dict[str, str]:
    """By FACTS: what all runs of a block have in common, in words; the task is a title, and not
    among them."""
    question = block.question
    defaults = DataSpec()
    limits = [f"{key}={value}" for key, value in question.data if value != getattr(defaults, key)]
    places = (block.place,) if block.place else block.places
    return {
        "model": question.model,
        "split": SPLIT.format(question.split)[lang],
        "task_version": VERSION.format(question.task_version)[lang],
        "data": ", ".join(limits) or ALL_DATA[lang],
        "training": STEPS.format(f"{question.steps:,}", question.batch_size)[lang],
        "dtype": question.dtype,
        "place": ", ".join(dict.fromkeys(map(str, places))),
        "stack": ", ".join(dict.fromkeys(place.stack for place in places)),
    }


def differing(blocks: Sequence[Block]) -> set[str]:
    """The FACTS in which blocks differ."""
    every = [facts(block) for block in blocks]
    return {name for name in FACTS if len({known[name] for known in every}) > 1}


def names(blocks: Sequence[Block]) -> list[str]:
    """A name for each block: its task, with what tells it from the other blocks of that task."""
    texts: list[str] = []
    for block in blocks:
        same = [other for other in blocks if other.question.task == block.question.task]
        apart = differing(same)
        texts.append(
            ", ".join(
                [
                    block.question.task,
                    *(text for name, text in facts(block).items() if name in apart),
                ]
            )
        )
    return texts
