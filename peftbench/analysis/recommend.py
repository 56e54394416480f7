"""What to use for a model, a task and a memory budget: the best arm that the store has measured
there, or an honest "I do not know"."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from peftbench.analysis.blocks import Arm, Block
from peftbench.analysis.estimates import Interval, Over
from peftbench.analysis.intervals import CONFIDENCE
from peftbench.analysis.labels import facts
from peftbench.analysis.learning import learned
from peftbench.analysis.measures import measure
from peftbench.analysis.results import Results
from peftbench.spec import Pooling
from peftbench.wording import decimal, size

GIB = 2**30
# The budget must hold this many times the live tensors' peak: an allocator needs more than what
# lives.
HEADROOM = 1.1
NEARBY = 2.0  # training examples stand for others up to this many times fewer or more
FEW_SEEDS = 3  # fewer are called weak evidence


@dataclass(frozen=True)
class Recommendation:
    """An arm and what it rests on. `method` is None where the store does not cover the question;
    `reason` then says why."""

    model: str
    task: str
    memory_gib: float
    samples: int | None
    reason: str
    pooling: Pooling | None = None
    method: str | None = None
    args: dict[str, Any] = field(default_factory=dict)  # rank and whatever else the method takes
    lr: float | None = None
    head_lr: float | None = None
    batch_size: int | None = None
    steps: int | None = None
    # Of a training step: reserved by CUDA where that is known, else live tensors.
    peak_bytes: float | None = None
    metric: str | None = None
    mean: float | None = None
    low: float | None = None  # the mean's interval; None where nothing says how wide it is
    high: float | None = None
    over: Over | None = None  # what the interval covers
    seeds: int = 0
    arms: int = 0  # among how many it is the best
    trials: int | None = None  # the most that a search spent on the settings; None: not tuned
    trained_on: int | None = None  # training examples; None: not known
    where: str = ""  # device and software
    leaner: str | None = None
    # the arm with the least peak that cannot be told from this one and needs less memory
    run_ids: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class _Candidate:
    """An arm, its peak of a training step in bytes, and its mean of the primary metric."""

    arm: Arm
    peak: float
    mean: float
    interval: Interval | None

    @property
    def needed(self) -> float:
        return HEADROOM * self.peak


class _UnknownError(Exception):
    """The store does not cover the question: why."""


def recommend(
    results: Results, model: str, task: str, memory_gib: float, samples: int | None = None
) -> Recommendation:
    """The arm with the best mean of the primary metric on the test split among those whose training
    fits into memory_gib (GiB).

    samples: how many training examples there are; None: the most that the store has. Only runs of
    one quality block are compared: the one with most runs that are done. It knows nothing of a
    model, task, memory or number of examples that was not measured.
    """
    unknown = Recommendation(model, task, memory_gib, samples, reason="")
    try:
        block = _block(results, model, task, samples)
        return _answer(unknown, results, block, _fitting(results, block, memory_gib))
    except _UnknownError as missing:
        return replace(unknown, reason=str(missing))


def _fitting(results: Results, block: Block, memory_gib: float) -> list[_Candidate]:
    """The arms that train, fit into the memory and are not known to have learned nothing. Raises
    _UnknownError if there is none."""
    estimates = results.estimates(block, "metric")
    candidates = [
        _Candidate(arm, peak, estimate.mean, estimate.interval)
        for arm, estimate in estimates.items()
        if arm.method != "frozen"
        and (peak := _peak(results, block, arm)) is not None
        and estimate.mean is not None
    ]
    fitting = [one for one in candidates if one.needed <= memory_gib * GIB]
    arms = f"{block.question.model} on {block.question.task}"
    if not fitting:
        least = min((one.needed for one in candidates), default=None)
        needs = (
            "no peak memory was measured"
            if least is None
            else f"the least that was measured needs {size(least)} with headroom"
        )
        raise _UnknownError(f"nothing measured for {arms} fits into {memory_gib:g} GiB: {needs}")
    above = [one for one in fitting if learned(results, block, one.arm) is not False]
    if not above:
        raise _UnknownError(
            f"of {_plural(len(fitting), 'arm')} for {arms} that fit, none is above the frozen "
            f"model and the best constant answer by more than chance ({block.primary})"
        )
    return above


def _answer(
    unknown: Recommendation, results: Results, block: Block, fitting: Sequence[_Candidate]
) -> Recommendation:
    """The recommendation of the best of the arms that fit."""
    best = max(fitting, key=lambda one: one.mean)
    arm, place = best.arm, facts(block.only([best.arm]))
    leaner = _leaner(results, block, best, fitting)
    seeds, arms = len(arm.done), len(fitting)
    weak = f"weak evidence: only {_plural(seeds, 'seed')}; " if seeds < FEW_SEEDS else ""
    names = ("lr", "head_lr", "batch_size", "steps")
    return replace(
        unknown,
        reason=f"{weak}the best of {_plural(arms, 'arm')} measured that fit, "
        "so its mean is optimistic",
        pooling=block.question.pooling,
        method=arm.method,
        args=arm.spec.args,
        **{name: getattr(arm.spec.train, name) for name in names},
        peak_bytes=best.peak,
        metric=block.primary,
        mean=best.mean,
        **(vars(best.interval) if best.interval else {}),
        seeds=seeds,
        arms=arms,
        trials=arm.trials,
        trained_on=arm.done[0].examples,
        where=f"{place['place']}; {place['stack']}",
        leaner=leaner and f"{leaner.arm.label} ({size(leaner.peak)})",
        run_ids=tuple(run.record.run_id for run in arm.done),
    )


def _leaner(
    results: Results, block: Block, best: _Candidate, fitting: Iterable[_Candidate]
) -> _Candidate | None:
    """Of the arms that need less memory and that the paired test cannot tell from the best, the one
    that needs least. Few shared seeds, or a test without an answer, show nothing."""
    less = {one.arm: one for one in fitting if one.peak < best.peak}
    differences = results.differences(block, best.arm, "metric", list(less))
    alike = [
        less[arm]
        for arm, difference in differences.items()
        if difference.seeds >= FEW_SEEDS
        and difference.p_holm is not None
        and not difference.is_worse
    ]
    return min(alike, key=lambda one: one.peak, default=None)


def _block(results: Results, model: str, task: str, samples: int | None) -> Block:
    """The block to answer from. Raises _UnknownError if there is none."""
    tested = [block for block in results.final if block.question.split == "test" and _done(block)]
    of_model = [block for block in tested if block.question.model == model]
    if not of_model:
        instead = _instead(block.question.model for block in tested)
        raise _UnknownError(f"the store holds no finished test run of model {model}{instead}")
    of_task = [block for block in of_model if block.question.task == task]
    if not of_task:
        instead = _instead(block.question.task for block in of_model)
        raise _UnknownError(
            f"the store holds no finished test run of {model} on task {task}{instead}"
        )
    sizes = {block: n for block in of_task if (n := _examples(block))}
    if not sizes:
        raise _UnknownError(f"no run of {model} on {task} says how many examples it was trained on")
    near = _near(sizes, samples)
    if not near:
        listed = ", ".join(f"{n:,}" for n in sorted(set(sizes.values())))
        raise _UnknownError(
            f"{model} on {task} was measured with {listed} training examples, "
            f"none within a factor of {NEARBY:g} of {samples}"
        )
    return max(near, key=_done)  # the first of the largest


def _done(block: Block) -> int:
    """How many runs are done."""
    return sum(len(arm.done) for arm in block.arms)


def _examples(block: Block) -> int | None:
    """On how many examples its runs trained; a frozen language model trains on none."""
    return next(
        (n for arm in block.arms for run in arm.done if (n := run.examples) is not None), None
    )


def _near(sizes: Mapping[Block, int], samples: int | None) -> list[Block]:
    """The blocks trained on about so many examples; without a number, on the most."""
    near = sizes.values()
    if samples is not None:
        near = [n for n in near if samples / NEARBY <= n <= samples * NEARBY]
    nearest = max(near, key=lambda n: -abs(math.log(n / samples)) if samples else n, default=None)
    return [block for block, n in sizes.items() if n == nearest]


def _peak(results: Results, block: Block, arm: Arm) -> float | None:
    """The greatest peak of a training step over the places and seeds that know it: at each place
    reserved by CUDA where every run knows that, else of live tensors."""
    peaks: list[float] = []
    for costs in results.costs_of(block):
        own = costs.same_settings(arm)
        runs = own.done if own else ()
        reserved = [measure(run, "cuda_reserved_bytes.train") for run in runs]
        live = [measure(run, "peak_bytes") for run in runs]
        peaks += [n for n in (live if None in reserved else reserved) if n is not None]
    return max(peaks, default=None)


def _instead(names: Iterable[str]) -> str:
    others = sorted(set(names))
    return f"; it has {', '.join(others)}" if others else ""


def _plural(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' if n > 1 else ''}"


def described(answer: Recommendation) -> str:
    """A recommendation in words, without a newline at its end."""
    examples = "" if answer.samples is None else f", {answer.samples} training examples"
    question = f"{answer.model} on {answer.task}, {answer.memory_gib:g} GiB{examples}"
    if answer.method is None:
        return f"{question}: I do not know: {answer.reason}."
    others = dict(answer.args)
    rank = f"rank {others.pop('rank')}, " if "rank" in others else ""
    settings = [
        f"{rank}learning rate {answer.lr:g} (head {answer.head_lr:g}), batch {answer.batch_size}, "
        f"{answer.steps} steps",
        ", ".join(f"{name} {value}" for name, value in others.items()),
        "mean pooling" if answer.pooling == "mean" else "",
        "not tuned" if answer.trials is None else f"tuned with {answer.trials} trials",
    ]
    interval = (
        ""
        if answer.low is None
        else f", {CONFIDENCE:.0%} interval over {answer.over} {answer.low:.4f} to {answer.high:.4f}"
    )
    trained_on = decimal(answer.trained_on, ",d")
    lines = {
        "settings": "; ".join(part for part in settings if part),
        "memory": f"peak of a training step {size(answer.peak_bytes)}; "
        f"with {HEADROOM - 1:.0%} headroom it fits",
        "expect": f"{answer.metric} {answer.mean:.4f}{interval}, {_plural(answer.seeds, 'seed')}",
        "evidence": f"{answer.reason}; {trained_on} training examples; {answer.where}",
        "runs": " ".join(answer.run_ids),
        "leaner": answer.leaner
        and f"{answer.leaner} needs less, and cannot be told from it over the shared seeds",
    }
    shown = (f"  {name:<9} {text}" for name, text in lines.items() if text)
    return "\n".join([f"{question}: {answer.method}", *shown])
