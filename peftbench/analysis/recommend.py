"""What to use for a model, a task and a memory budget: the best arm that the store has measured
there, or an honest "I do not know"."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from scipy import stats as distributions

from peftbench.analysis.frame import ARM, BLOCK, distinct
from peftbench.tables import NONE, size

CONFIDENCE = 0.95
GIB = 2**30
# the budget must hold this many times the live tensors' peak: an allocator needs more than what
# lives
HEADROOM = 1.1
# a number of training examples stands for others up to this many times smaller or larger
NEARBY = 2.0
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
    args: str = "{}"  # JSON: rank and whatever else the method takes
    lr: float | None = None
    head_lr: float | None = None
    batch_size: int | None = None
    steps: int | None = None
    # of a training step: reserved by CUDA where that is known, else live tensors
    peak_bytes: float | None = None
    metric: str | None = None
    mean: float | None = None
    low: float | None = None  # Student's interval of the mean over seeds; None with one seed
    high: float | None = None
    seeds: int = 0
    arms: int = 0  # among how many it is the best
    # the most that a search spent on the settings; None: they were not tuned
    trials: int | None = None
    trained_on: int | None = None  # training examples; None: not known
    where: str = ""  # device and software
    # the arm with the least peak that cannot be told from this one and needs less memory
    leaner: str | None = None
    run_ids: tuple[str, ...] = ()

    @property
    def rank(self) -> int | None:
        return json.loads(self.args).get("rank")


def recommend(
    runs: pd.DataFrame, model: str, task: str, memory_gib: float, samples: int | None = None
) -> Recommendation:
    """The arm with the best mean of the primary metric on the test split among those whose training
    fits into memory_gib (GiB).

    runs: frame.frame. samples: how many training examples there are; None: the most that the store
    has. Only runs of one block are compared: the one with most runs that are done. It knows nothing
    of a model, task, memory or number of examples that was not measured.
    """

    def unknown(reason: str) -> Recommendation:
        return Recommendation(model, task, memory_gib, samples, reason)

    done = _rows(runs)
    about_model = [row for row in done if row["model"] == model]
    if not about_model:
        return unknown(
            f"the store holds no finished test run of model {model}{_instead(done, 'model')}"
        )
    about_task = [row for row in about_model if row["task"] == task]
    if not about_task:
        return unknown(
            f"the store holds no finished test run of {model} on task {task}{_instead(about_model, 'task')}"
        )
    near = _near(about_task, samples)
    if not near:
        sizes = ", ".join(
            f"{size:,.0f}"
            for size in sorted({row["examples"] for row in about_task})
            if not math.isnan(size)
        )
        return unknown(
            f"{model} on {task} was measured with {sizes} training examples, none within a factor of {NEARBY:g} of {samples}"
            if sizes and samples
            else f"no run of {model} on {task} says how many examples it was trained on"
        )
    block = max(_groups(near, BLOCK), key=len)  # the first of the largest, in the frame's order
    arms = [
        arm
        for arm in _groups(block, ARM)
        if arm[0]["method"] != "frozen" and not math.isnan(_peak(arm) * _mean(arm))
    ]
    fitting = [arm for arm in arms if _needed(arm) <= memory_gib * GIB]
    if not fitting:
        least = min(map(_needed, arms), default=None)
        needs = (
            "no peak memory was measured"
            if least is None
            else f"the least that was measured needs {size(least)} with headroom"
        )
        return unknown(
            f"nothing that was measured for {model} on {task} fits into {memory_gib:g} GiB: {needs}"
        )
    best = max(fitting, key=_mean)
    floor = next((arm for arm in _groups(block, ARM) if arm[0]["method"] == "frozen"), None)
    if floor and not _mean(best) > _mean(floor):
        return unknown(
            f"of {len(fitting)} arms for {model} on {task} that fit, none scores above the frozen model "
            f"({best[0]['primary']} {_mean(floor):.4f})"
        )
    return _answer(unknown(""), best, fitting, floor)


def _answer(
    question: Recommendation,
    best: Sequence[dict[str, Any]],
    fitting: Sequence[Sequence[dict[str, Any]]],
    floor: Sequence[dict[str, Any]] | None,
) -> Recommendation:
    """The recommendation of the best of the arms that fit, seen against the frozen model where that
    ran."""
    first = best[0]
    low, high = _interval([row["metric"] for row in best]) or (None, None)
    alike = [arm for arm in fitting if _peak(arm) < _peak(best) and _alike(arm, best)]
    leaner = min(alike, key=_peak, default=None)
    weak = (
        f"weak evidence: only {len(best)} seed{'s' if len(best) > 1 else ''}; "
        if len(best) < FEW_SEEDS
        else ""
    )
    doubt = (
        "it cannot be told from the frozen model; "
        if floor and _alike(floor, best, least=1)
        else ""
    )
    trials = max(
        (int(row["trials"]) for row in best if not math.isnan(row["trials"])), default=None
    )
    return Recommendation(
        question.model,
        question.task,
        question.memory_gib,
        question.samples,
        reason=f"{weak}{doubt}the best of {len(fitting)} arm{'s' if len(fitting) > 1 else ''} measured that fit, so its mean is optimistic",
        method=first["method"],
        args=first["args"],
        lr=first["train.lr"],
        head_lr=first["train.head_lr"],
        batch_size=int(first["train.batch_size"]),
        steps=int(first["train.steps"]),
        peak_bytes=_peak(best),
        metric=first["primary"],
        mean=_mean(best),
        low=low,
        high=high,
        seeds=len(best),
        arms=len(fitting),
        trials=trials,
        trained_on=None if math.isnan(first["examples"]) else int(first["examples"]),
        where=f"{first['device']}: {first['device_name']}; {first['stack']}",
        leaner=f"{leaner[0]['label']} ({size(_peak(leaner))})" if leaner else None,
        run_ids=tuple(row["run_id"] for row in best),
    )


def render(found: Recommendation) -> str:
    """A recommendation in words, without a newline at its end."""
    examples = "" if found.samples is None else f", {found.samples} training examples"
    question = f"{found.model} on {found.task}, {found.memory_gib:g} GiB{examples}"
    if found.method is None:
        return f"{question}: I do not know: {found.reason}."
    args = json.loads(found.args)
    settings = [f"rank {args['rank']}"] if "rank" in args else []
    settings += [
        f"learning rate {found.lr:g} (head {found.head_lr:g})",
        f"batch {found.batch_size}",
        f"{found.steps} steps",
    ]
    others = ", ".join(f"{name} {value}" for name, value in args.items() if name != "rank")
    tuned = "not tuned" if found.trials is None else f"tuned with {found.trials} trials"
    interval = (
        ""
        if found.low is None
        else f", {CONFIDENCE:.0%} interval {found.low:.4f} to {found.high:.4f}"
    )
    assert found.peak_bytes is not None
    lines = [
        f"{question}: {found.method}",
        f"  settings  {', '.join(settings)}{f'; {others}' if others else ''}; {tuned}",
        f"  memory    peak of a training step {size(found.peak_bytes)}; with {HEADROOM - 1:.0%} headroom it fits",
        f"  expect    {found.metric} {found.mean:.4f}{interval}, {found.seeds} seed{'s' if found.seeds > 1 else ''}",
        f"  evidence  {found.reason}; {NONE if found.trained_on is None else f'{found.trained_on:,}'} training examples; {found.where}",
        f"  runs      {' '.join(found.run_ids)}",
    ]
    if found.leaner:
        lines.append(
            f"  leaner    {found.leaner} needs less, and cannot be told from it over the shared seeds"
        )
    return "\n".join(lines)


def _rows(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """The runs on test splits that are done."""
    rows = [
        {str(name): value for name, value in row.items()}
        for row in distinct(runs).to_dict("records")
    ]
    return [row for row in rows if row["status"] == "done" and row["split"] == "test"]


def _groups(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> list[list[dict[str, Any]]]:
    """The rows that agree in some columns, in order of their first."""
    grouped: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        grouped.setdefault(tuple(row[name] for name in names), []).append(row)
    return list(grouped.values())


def _instead(rows: Sequence[dict[str, Any]], name: str) -> str:
    there = sorted({row[name] for row in rows})
    return f"; it has {', '.join(there)}" if there else ""


def _near(rows: Sequence[dict[str, Any]], samples: int | None) -> list[dict[str, Any]]:
    """The rows trained on about so many examples, and those beside them that trained on none;
    without a number, on the most."""
    sizes = {row["data"]: row["examples"] for row in rows if not math.isnan(row["examples"])}
    if samples is None:
        chosen = max(sizes.values(), default=None)
    else:
        near = [size for size in sizes.values() if samples / NEARBY <= size <= samples * NEARBY]
        chosen = min(near, key=lambda size: abs(math.log(size / samples)), default=None)
    return [row for row in rows if sizes.get(row["data"]) == chosen] if chosen else []


def _peak(arm: Sequence[dict[str, Any]]) -> float:
    """The greatest peak over the seeds: reserved by CUDA in training where every run knows it, else
    of live tensors."""
    reserved = max(row["cuda_reserved_bytes.train"] for row in arm)
    known = not any(math.isnan(row["cuda_reserved_bytes.train"]) for row in arm)
    return reserved if known else max(row["peak_bytes"] for row in arm)


def _needed(arm: Sequence[dict[str, Any]]) -> float:
    return HEADROOM * _peak(arm)


def _mean(arm: Sequence[dict[str, Any]]) -> float:
    return sum(row["metric"] for row in arm) / len(arm)


def _interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Student's interval of a mean; None for one value."""
    if len(values) < 2:
        return None
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    half = (
        float(distributions.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
        * deviation
        / math.sqrt(len(values))
    )
    return mean - half, mean + half


def _alike(
    arm: Sequence[dict[str, Any]], best: Sequence[dict[str, Any]], least: int = FEW_SEEDS
) -> bool:
    """Whether two arms cannot be told apart by the interval of their difference, over at least so
    many shared seeds."""
    scores = {row["seed"]: row["metric"] for row in best}
    differences = [scores[row["seed"]] - row["metric"] for row in arm if row["seed"] in scores]
    limits = _interval(differences)
    return len(differences) >= least and (limits is None or limits[0] <= 0 <= limits[1])
