"""What to use for a model, a task and a memory budget: the best arm that the store has measured
there, or an honest "I do not know"."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from peftbench.analysis.blocks import Arm, Block
from peftbench.analysis.estimates import Interval, Over, Results
from peftbench.analysis.intervals import CONFIDENCE
from peftbench.analysis.labels import facts
from peftbench.analysis.measures import measure
from peftbench.wording import NONE, size

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
    block = _block(results, model, task, samples)
    if isinstance(block, str):
        return replace(unknown, reason=block)
    estimates = results.estimates(block, "metric")
    candidates = [
        _Candidate(arm, peak, mean, estimate.interval)
        for arm, estimate in estimates.items()
        if arm.method != "frozen"
        and (peak := _peak(results, block, arm)) is not None
        and (mean := estimate.mean) is not None
    ]
    fitting = [one for one in candidates if one.needed <= memory_gib * GIB]
    if not fitting:
        least = min((one.needed for one in candidates), default=None)
        needs = (
            "no peak memory was measured"
            if least is None
            else f"the least that was measured needs {size(least)} with headroom"
        )
        reason = f"nothing measured for {model} on {task} fits into {memory_gib:g} GiB: {needs}"
        return replace(unknown, reason=reason)
    best = max(fitting, key=lambda one: one.mean)
    floor = block.first("frozen")
    untrained = estimates[floor].mean if floor else None
    if untrained is not None and best.mean <= untrained:
        reason = (
            f"of {len(fitting)} arms for {model} on {task} that fit, none scores above the frozen "
            f"model ({block.primary} {untrained:.4f})"
        )
        return replace(unknown, reason=reason)
    return _answer(unknown, results, block, best, fitting)


def _answer(
    unknown: Recommendation,
    results: Results,
    block: Block,
    best: _Candidate,
    fitting: Sequence[_Candidate],
) -> Recommendation:
    """The recommendation of the best of the arms that fit, seen against the frozen model where that
    ran."""
    arm, place = best.arm, facts(block.only([best.arm]))
    interval, leaner = best.interval, _leaner(results, block, best, fitting)
    seeds, arms = len(arm.done), len(fitting)
    weak = f"weak evidence: only {_plural(seeds, 'seed')}; " if seeds < FEW_SEEDS else ""
    doubt = (
        ""
        if _beats_the_frozen_model(results, block, arm)
        else "it cannot be told from the frozen model; "
    )
    return replace(
        unknown,
        reason=f"{weak}{doubt}the best of {_plural(arms, 'arm')} measured that fit, "
        "so its mean is optimistic",
        method=arm.method,
        args=arm.spec.args,
        lr=arm.spec.train.lr,
        head_lr=arm.spec.train.head_lr,
        batch_size=arm.spec.train.batch_size,
        steps=arm.spec.train.steps,
        peak_bytes=best.peak,
        metric=block.primary,
        mean=best.mean,
        low=interval and interval.low,
        high=interval and interval.high,
        over=interval and interval.over,
        seeds=seeds,
        arms=arms,
        trials=arm.trials,
        trained_on=arm.done[0].examples,
        where=f"{place['place']}; {place['stack']}",
        leaner=leaner and f"{leaner.arm.label} ({size(leaner.peak)})",
        run_ids=tuple(run.record.run_id for run in arm.done),
    )


def _beats_the_frozen_model(results: Results, block: Block, arm: Arm) -> bool:
    """By more than chance; taken to be so where that did not run."""
    floor = block.first("frozen")
    return not floor or results.differences(block, floor, "metric", [arm])[arm].is_better


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


def _block(results: Results, model: str, task: str, samples: int | None) -> Block | str:
    """The block to answer from; where there is none, the reason."""
    tested = [block for block in results.final if block.question.split == "test" and _done(block)]
    of_model = [block for block in tested if block.question.model == model]
    if not of_model:
        there = _instead(block.question.model for block in tested)
        return f"the store holds no finished test run of model {model}{there}"
    of_task = [block for block in of_model if block.question.task == task]
    if not of_task:
        there = _instead(block.question.task for block in of_model)
        return f"the store holds no finished test run of {model} on task {task}{there}"
    near = _near(of_task, samples)
    if near:
        return max(near, key=_done)  # the first of the largest
    sizes = sorted({n for block in of_task if (n := _examples(block)) is not None})
    if sizes:
        listed = ", ".join(f"{n:,}" for n in sizes)
        return (
            f"{model} on {task} was measured with {listed} training examples, "
            f"none within a factor of {NEARBY:g} of {samples}"
        )
    return f"no run of {model} on {task} says how many examples it was trained on"


def _done(block: Block) -> int:
    """How many runs are done."""
    return sum(len(arm.done) for arm in block.arms)


def _examples(block: Block) -> int | None:
    """On how many examples its runs trained; a frozen language model trains on none."""
    return next(
        (n for arm in block.arms for run in arm.done if (n := run.examples) is not None), None
    )


def _near(blocks: Sequence[Block], samples: int | None) -> list[Block]:
    """The blocks trained on about so many examples; without a number, on the most."""
    sizes = {block: n for block in blocks if (n := _examples(block))}
    if samples is None:
        nearest = max(sizes.values(), default=None)
    else:
        near = [n for n in sizes.values() if samples / NEARBY <= n <= samples * NEARBY]
        nearest = min(near, key=lambda n: abs(math.log(n / samples)), default=None)
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
    there = sorted(set(names))
    return f"; it has {', '.join(there)}" if there else ""


def _plural(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' if n > 1 else ''}"


def described(answer: Recommendation) -> str:
    """A recommendation in words, without a newline at its end."""
    examples = "" if answer.samples is None else f", {answer.samples} training examples"
    question = f"{answer.model} on {answer.task}, {answer.memory_gib:g} GiB{examples}"
    if answer.method is None:
        return f"{question}: I do not know: {answer.reason}."
    others = dict(answer.args)
    rank = [f"rank {others.pop('rank')}"] if "rank" in others else []
    training = (
        f"learning rate {answer.lr:g} (head {answer.head_lr:g})",
        f"batch {answer.batch_size}",
        f"{answer.steps} steps",
    )
    settings = [
        ", ".join([*rank, *training]),
        ", ".join(f"{name} {value}" for name, value in others.items()),
        "not tuned" if answer.trials is None else f"tuned with {answer.trials} trials",
    ]
    interval = (
        ""
        if answer.low is None
        else f", {CONFIDENCE:.0%} interval over {answer.over} {answer.low:.4f} to {answer.high:.4f}"
    )
    trained_on = NONE if answer.trained_on is None else f"{answer.trained_on:,}"
    lines = {
        "settings": "; ".join(part for part in settings if part),
        "memory": f"peak of a training step {size(answer.peak_bytes)}; "
        f"with {HEADROOM - 1:.0%} headroom it fits",
        "expect": f"{answer.metric} {answer.mean:.4f}{interval}, {_plural(answer.seeds, 'seed')}",
        "evidence": f"{answer.reason}; {trained_on} training examples; {answer.where}",
        "runs": " ".join(answer.run_ids),
    }
    if answer.leaner:
        lines["leaner"] = (
            f"{answer.leaner} needs less, and cannot be told from it over the shared seeds"
        )
    return "\n".join(
        [f"{question}: {answer.method}", *(f"  {name:<9} {text}" for name, text in lines.items())]
    )
