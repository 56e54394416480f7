"""Every claim can come out in all three ways, and each comes out as its rule says."""

import csv
import io
import json
import math
import random
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import records
from scipy import stats as distributions

from peftbench.analysis import loss_curves
from peftbench.analysis.blocks import Run
from peftbench.analysis.results import Predictions, Results
from peftbench.article import full_fine_tuning, lora, lora_fa, lora_plus, vera
from peftbench.article.claim import (
    MIN_SEEDS,
    Decision,
    Effect,
    Verdict,
    above,
    below,
    both,
    pooled,
    together,
)
from peftbench.article.llama import LLAMA_7B, LLAMA_70B, llama, lora_params, shipped
from peftbench.article.pairs import VARIANTS, mean
from peftbench.article.quality import CLOSE, GAIN, LITTLE_LOSS
from peftbench.article.verdicts import JUDGES, Verdicts, verdicts
from peftbench.at_scale import AtScale
from peftbench.markup import as_text
from peftbench.record import Footprint, Latency, Parts, Point, Record, Spread, Timing
from peftbench.record import Predictions as PredictionsFile
from peftbench.spec import DataSpec, StudyReference

FAMILIES = {"L": 4, "FA": 3, "V": 3, "D": 2, "P": 2}
IDS = ["F1a", "F1b", "F2", "F3"]
IDS += [f"{family}{i + 1}" for family, count in FAMILIES.items() for i in range(count)]
COMPUTED = {"F1a", "F1b", "L3"}
JUDGE = dict(zip(IDS, JUDGES, strict=True))
NOISE = (0.3, 1.0, -1.0, 0.6, -0.9, 0.1, 0.8, -0.7, -0.4, 0.5)
TASKS = ("reviews", "sst2")  # the least that a verdict about quality rests on
TUNED = StudyReference(name="tuned", trials=16)


def arm(
    method: str,
    metric: float = 0.8,
    *,
    noise: float = 0.0,
    seeds: int = 5,
    cost: dict[str, Any] | Callable[[int], dict[str, Any]] | None = None,
    metrics: dict[str, float] | Callable[[int], dict[str, float]] | None = None,
    curve: Sequence[float] | Callable[[int], Sequence[float]] | None = None,
    lost: int = 0,
    pattern: Sequence[float] = NOISE,
    **changed: Any,
) -> list[Record]:
    """An arm's runs, one a seed: metric + noise x pattern; cost, metrics and the curve's training
    losses may depend on the seed; the first `lost` runs diverged."""
    made: list[Record] = []
    for seed in range(seeds):
        if seed < lost:
            made.append(records.record(method=method, seed=seed, status="diverged", **changed))
            continue
        own = cost(seed) if callable(cost) else cost
        extra = metrics(seed) if callable(metrics) else metrics
        losses = curve(seed) if callable(curve) else curve
        value = metric + noise * pattern[seed]
        record = records.record(
            method=method,
            seed=seed,
            metrics={"accuracy": value, "nll": 1.3 - value, **(extra or {})},
            **changed,
        )
        paid = {"peak_bytes": 10**8, "tokens_per_second": 1000.0, **(own or {})}
        points = record.curve if losses is None else points_of(losses)
        made.append(costing(record, paid).model_copy(update={"curve": tuple(points)}))
    return made


def asked(record: Record, **changed: Any) -> Record:
    """A record of another spec."""
    spec = record.spec.model_copy(update=changed)
    return record.model_copy(update={"spec": spec, "run_id": spec.run_id})


def on_tasks(stored: Iterable[Record], tasks: Sequence[str] = TASKS) -> list[Record]:
    """The same runs on each of the tasks."""
    records = list(stored)
    return [asked(record, task=task) for task in tasks for record in records]


def costing(record: Record, cost: dict[str, Any]) -> Record:
    """A record with other numbers in its footprint and its timing."""
    kinds = {"footprint": Footprint, "timing": Timing}
    assert set(cost) <= {name for kind in kinds.values() for name in kind.model_fields}
    parts = {
        part: getattr(record, part).model_copy(
            update={name: value for name, value in cost.items() if name in kind.model_fields}
        )
        for part, kind in kinds.items()
    }
    return record.model_copy(update=parts)


def points_of(losses: Iterable[float]) -> list[Point]:
    return [Point(step=step, train_loss=loss) for step, loss in enumerate(losses, 1)]


def floor(**changed: Any) -> list[Record]:
    return arm("frozen", 0.5, **changed)


def judge(claim: str, stored: Iterable[Record], predictions: Predictions | None = None) -> Verdict:
    return JUDGE[claim](Results(tuple(stored), predictions))


def effect(verdict: Verdict) -> Effect:
    assert verdict.effect
    return verdict.effect


def latency(base: float, merged: float, iqr: float, control: float | None = None) -> dict[str, Any]:
    def spread(median: float) -> Spread:
        return Spread(median=median, iqr=iqr, n=9)

    return {
        "latency_seconds": Latency(
            base=spread(base),
            adapted=spread(base),
            merged=spread(merged),
            control=None if control is None else spread(control),
        )
    }


def parts(weights: int) -> Parts:
    return Parts(weights=weights, gradients=0, optimizer=0, activations=0, other=0)


def falling(speed: float, steps: int = 40) -> list[float]:
    return [math.exp(-speed * step / steps) for step in range(steps)]


def against(
    method: str,
    reference: str,
    ours: float,
    theirs: float = 0.8,
    noise: float = 0.0,
    **changed: Any,
) -> list[Record]:
    """On two tasks, unless one is named."""
    stored = [
        *floor(**changed),
        *arm(reference, theirs, **changed),
        *arm(method, ours, noise=noise, **changed),
    ]
    return stored if "task" in changed else on_tasks(stored)


def few(ours: float, noise: float = 0.0, least: int = 100, many: float = 0.8) -> list[Record]:
    """VeRA at few and at many examples, where LoRA reaches 0.8."""
    sizes = {ours: DataSpec(train=least), many: DataSpec(train=5000)}
    assert len(sizes) == 2
    return [
        record
        for value, data in sizes.items()
        for record in against("vera", "lora", value, noise=noise, data=data)
    ]


def delta(
    ours: float,
    plain: float = 0.8,
    control: float = 0.8,
    noise: float = 0.0,
    tasks: Sequence[str] = ("gsm8k", "mbpp"),
    start_step: int = 10,
) -> list[Record]:
    stored = [
        *against("delta-lora", "lora", ours, plain, noise, task="gsm8k"),
        *arm("lora", control, task="gsm8k", args={"alpha": 24.0}),
    ]
    return on_tasks(
        (
            asked(record, args=record.spec.args | {"start_step": start_step})
            if record.spec.method == "delta-lora"
            else record
            for record in stored
        ),
        tasks,
    )


def speeds(
    ours: float,
    theirs: float = 4.0,
    noise: float = 0.0,
    studies: tuple[StudyReference | None, StudyReference | None] = (TUNED, TUNED),
) -> list[Record]:
    stored = [
        *floor(),
        *arm("lora", 0.8, curve=falling(theirs), study=studies[0]),
        *arm(
            "lora+", 0.8, curve=lambda seed: falling(ours + noise * NOISE[seed]), study=studies[1]
        ),
    ]
    return on_tasks(stored)


def benchmarks(*ours: float, noise: float = 0.0) -> list[Record]:
    """LoRA+ against LoRA's 0.8 on as many tasks, both tuned."""
    stored: list[Record] = []
    for task, value in zip(("reviews", "sst2", "rte"), ours, strict=False):
        stored += [*floor(task=task), *arm("lora", 0.8, task=task, study=TUNED)]
        stored += arm("lora+", value, noise=noise, task=task, study=TUNED)
    return stored


def stability(
    lora: float,
    others: float,
    lost: tuple[int, int] = (0, 0),
    pattern: Sequence[float] = NOISE,
) -> list[Record]:
    stored = [*floor(seeds=10), *arm("lora", noise=lora, lost=lost[0], seeds=10)]
    for method in VARIANTS:
        stored += arm(method, noise=others, lost=lost[1], seeds=10, pattern=pattern)
    return on_tasks(stored)


def sizes(claim: str, *shares: float) -> list[Record]:
    """One task each, where VeRA or LoRA trains so much: of LoRA's parameters (V1) or of the model's
    (L1)."""
    stored: list[Record] = []
    for share, task in zip(shares, ("reviews", "sst2"), strict=False):
        whole = records.TRAINED["lora"] if claim == "V1" else records.TOTAL - records.HEAD
        if claim == "V1":
            stored += arm("lora", task=task)
        stored += arm(
            "vera" if claim == "V1" else "lora",
            task=task,
            cost={"trained_params": round(share * whole)},
            model=f"{task} model",
        )
        if claim == "V1":
            stored = [record for record in stored if record.spec.method == "vera"]
            stored += [
                record
                for model in dict.fromkeys(r.spec.model for r in stored)
                for record in arm("lora", model=model, task=model.split()[0])
            ]
    return stored


def measured(
    method: str,
    name: str,
    value: Callable[[int], float],
    reference: dict[str, Any] | None = None,
    **changed: Any,
) -> list[Record]:
    """LoRA and a method whose cost `name` depends on the seed."""
    return [
        *arm("lora", cost=reference, **changed),
        *arm(method, cost=lambda seed: {name: value(seed)}, **changed),
    ]


def gaps(vera: float, noise: float = 0.0, steps: int = 10_000, end: float = 0.2) -> list[Record]:
    """LoRA's test nll is 0.3 above its training nll, VeRA's `vera`, after so many steps."""
    train = {"steps": steps}
    stored = [
        *floor(train=train),
        *arm("lora", curve=[0.2] * 20, metrics={"nll": 0.5}, train=train),
        *arm(
            "vera",
            curve=[end] * 20,
            metrics=lambda seed: {"nll": end + vera + noise * NOISE[seed]},
            train=train,
        ),
    ]
    return on_tasks(stored)


def energy(*weight: float) -> list[Record]:
    tasks = ("reviews", "sst2")
    return [
        record
        for task, value in zip(tasks, weight, strict=False)
        for record in arm(
            "full",
            task=task,
            model=f"{task} model",
            metrics={"energy8.weight": value, "energy8.change": 0.95, "energy64.change": 0.99},
        )
    ]


def file_bytes(value: Callable[[int], float]) -> list[Record]:
    lora = {"adapter_file_bytes": 1000, "peak_parts": parts(100_000)}
    return measured("delta-lora", "adapter_file_bytes", lambda seed: int(value(seed)), lora)


CASES: list[tuple[str, str, Callable[[], list[Record]]]] = [
    ("F2", "supported", lambda: against("lora", "full", 0.8, 0.81, 0.001)),
    ("F2", "refuted", lambda: against("lora", "full", 0.75, 0.81, 0.001)),
    ("F2", "undecided", lambda: against("lora", "full", 0.79, 0.81, 0.03)),
    (
        "F2",
        "refuted",
        lambda: on_tasks(
            [
                *floor(),
                *arm("full", 0.81),
                *arm("lora", 0.81, noise=0.001, cost={"trained_params": 2_000_000}),
            ]
        ),
    ),
    ("F3", "supported", lambda: energy(0.93)),
    ("F3", "refuted", lambda: energy(0.05)),
    ("F3", "undecided", lambda: energy(0.05, 0.93)),
    ("L1", "supported", lambda: sizes("L1", 0.099)),
    ("L1", "refuted", lambda: sizes("L1", 0.11)),
    ("L1", "undecided", lambda: sizes("L1", 0.099, 0.11)),
    ("L2", "supported", lambda: arm("lora", cost=latency(0.004, 0.0041, 0.00001))),
    ("L2", "refuted", lambda: arm("lora", cost=latency(0.004, 0.0044, 0.00001))),
    ("L2", "undecided", lambda: arm("lora", cost=latency(0.004, 0.0041, 0.002))),
    (
        "L2",
        "undecided",
        lambda: arm(
            "lora", cost=lambda seed: latency(0.004, 0.0041 + 0.0004 * NOISE[seed], 0.00001)
        ),
    ),
    ("L4", "supported", lambda: stability(0.001, 0.01)),
    ("L4", "refuted", lambda: stability(0.01, 0.001)),
    ("L4", "undecided", lambda: stability(0.01, 0.01, pattern=NOISE[::-1])),
    ("L4", "refuted", lambda: stability(0.001, 0.01, lost=(10, 0))),
    ("L4", "supported", lambda: stability(0.01, 0.01, lost=(0, 10))),
    ("FA1", "supported", lambda: measured("lora-fa", "peak_bytes", lambda seed: 98_000_000 + seed)),
    ("FA1", "refuted", lambda: measured("lora-fa", "peak_bytes", lambda seed: 99_500_000 + seed)),
    (
        "FA1",
        "undecided",
        lambda: measured("lora-fa", "peak_bytes", lambda seed: 98_000_000 + 500_000 * seed),
    ),
    (
        "FA2",
        "supported",
        lambda: measured("lora-fa", "tokens_per_second", lambda seed: 1040 + 5 * NOISE[seed]),
    ),
    (
        "FA2",
        "refuted",
        lambda: measured("lora-fa", "tokens_per_second", lambda seed: 1005 + 5 * NOISE[seed]),
    ),
    (
        "FA2",
        "undecided",
        lambda: measured("lora-fa", "tokens_per_second", lambda seed: 1040 + 50 * NOISE[seed]),
    ),
    ("FA3", "supported", lambda: against("lora-fa", "lora", 0.793, noise=0.001)),
    ("FA3", "refuted", lambda: against("lora-fa", "lora", 0.78, noise=0.001)),
    ("FA3", "undecided", lambda: against("lora-fa", "lora", 0.788, noise=0.02)),
    ("V1", "supported", lambda: sizes("V1", 0.09)),
    ("V1", "refuted", lambda: sizes("V1", 0.2)),
    ("V1", "undecided", lambda: sizes("V1", 0.09, 0.2)),
    ("V2", "supported", lambda: gaps(0.25, 0.001)),
    ("V2", "refuted", lambda: gaps(0.295, 0.001)),
    ("V2", "undecided", lambda: gaps(0.25, 0.1)),
    ("V3", "supported", lambda: few(0.82, 0.001)),
    ("V3", "refuted", lambda: few(0.81, 0.001, many=0.81001)),
    ("V3", "undecided", lambda: few(0.81, 0.03)),
    ("D1", "supported", lambda: delta(0.82, noise=0.001)),
    ("D1", "refuted", lambda: delta(0.8, noise=0.001)),
    ("D1", "undecided", lambda: delta(0.81, noise=0.03)),
    ("D1", "refuted", lambda: delta(0.82, control=0.82, noise=0.001)),
    ("D1", "refuted", lambda: delta(0.82, plain=0.82, noise=0.001)),
    ("D2", "supported", lambda: file_bytes(lambda seed: 2000)),
    ("D2", "refuted", lambda: file_bytes(lambda seed: 1000)),
    ("D2", "refuted", lambda: file_bytes(lambda seed: 100_000)),
    ("D2", "undecided", lambda: file_bytes(lambda seed: 1000 + seed)),
    ("P1", "supported", lambda: speeds(8.0, noise=0.1)),
    ("P1", "refuted", lambda: speeds(2.0, noise=0.1)),
    ("P1", "undecided", lambda: speeds(4.5, noise=1.0)),
    ("P2", "supported", lambda: benchmarks(0.82, 0.82, noise=0.001)),
    ("P2", "refuted", lambda: benchmarks(0.8, 0.8, noise=0.001)),
    ("P2", "undecided", lambda: benchmarks(0.82, 0.8, noise=0.001)),
    ("P2", "undecided", lambda: benchmarks(0.82, noise=0.001)),
]


@pytest.mark.parametrize(
    ("claim", "expected", "build"),
    CASES,
    ids=[f"{claim}-{expected}-{i}" for i, (claim, expected, _) in enumerate(CASES)],
)
def test_verdict_follows_from_the_records(
    claim: str, expected: str, build: Callable[[], list[Record]]
) -> None:
    stored = build()
    verdict = judge(claim, stored)
    assert verdict.decision == expected, verdict
    assert verdict.claim.id == claim
    assert {run.key for run in verdict.runs} <= {Run(record).key for record in stored}
    assert len(verdict.runs) == len({run.key for run in verdict.runs}) > 0
    if verdict.effect is not None:
        assert verdict.effect.low <= verdict.effect.value <= verdict.effect.high


def test_every_claim_comes_out_in_all_three_ways() -> None:
    ways = {claim: {expected for name, expected, _ in CASES if name == claim} for claim in IDS}
    assert all(
        ways[claim] == {"supported", "refuted", "undecided"} for claim in set(IDS) - COMPUTED
    )


def of_layers(times: float) -> list[AtScale]:
    """The shipped forecasts, of models with so many times the parameters."""
    return [
        replace(
            row,
            total_params=round(times * row.total_params),
            trained_params=round(times * row.trained_params),
        )
        for row in shipped()
    ]


@pytest.mark.parametrize(
    ("judge", "layers", "expected"),
    [
        (full_fine_tuning.has_a_file_of_a_hundred_gigabytes, 32, "refuted"),
        (full_fine_tuning.has_a_file_of_a_hundred_gigabytes, 180, "undecided"),
        (full_fine_tuning.has_a_file_of_a_hundred_gigabytes, 400, "supported"),
        (full_fine_tuning.needs_hundreds_of_gigabytes, 32, "refuted"),
        (full_fine_tuning.needs_hundreds_of_gigabytes, 100, "undecided"),
        (full_fine_tuning.needs_hundreds_of_gigabytes, 180, "supported"),
    ],
)
def test_file_and_training_memory_are_arithmetic(
    judge: Callable[[Results, Sequence[AtScale]], Verdict], layers: int, expected: str
) -> None:
    verdict = judge(Results(()), of_layers(layers / 32))
    assert verdict.decision == expected
    assert verdict.runs == ()
    assert "computed, not measured" in verdict.reason.en.lower()


def test_seven_billion_parameters_are_thirteen_gigabytes() -> None:
    gigabytes = effect(judge("F1a", []))
    assert gigabytes.value == pytest.approx(13.476831232)
    assert gigabytes.high == pytest.approx(2 * 13.476831232)


@pytest.mark.parametrize(
    ("layers", "expected"), [(80, "refuted"), (20, "undecided"), (1, "supported")]
)
def test_adapter_of_a_70b_model(layers: int, expected: str) -> None:
    for stored in ([], files(4000)):
        verdict = lora.adapter_takes_a_few_megabytes(Results(tuple(stored)), of_layers(layers / 80))
        assert verdict.decision == expected
        assert len(verdict.runs) == len(stored)


def files(size: int) -> list[Record]:
    """LoRA, whose file with 1000 parameters takes so many bytes."""
    return arm("lora", cost={"trained_params": 1000, "head_params": 0, "adapter_file_bytes": size})


def test_adapter_file_of_the_store_sets_the_bytes_of_a_parameter() -> None:
    verdict = judge("L3", files(8000))
    assert effect(verdict).high == pytest.approx(lora_params(LLAMA_70B, 8) * 8 / 1e6)
    assert "8.00 bytes" in verdict.reason.en


def test_published_parameter_counts() -> None:
    """Llama-2's model cards; rank x sum(in + out) over the layers of a block; VeRA's r + out."""
    h, f, layers = 4096, 11008, 32
    assert llama(LLAMA_7B, "full").total_params == 6_738_415_616
    assert llama(LLAMA_70B, "full").total_params == 68_976_648_192
    assert lora_params(LLAMA_7B, 4) == layers * 4 * (4 * 2 * h + 3 * (h + f))
    vera = llama(LLAMA_7B, "vera", {"rank": 1024}).trained_params
    assert vera == layers * (7 * 1024 + 5 * h + 2 * f)


def test_what_lora_fa_saves_at_7b_is_part_the_method_and_part_the_implementation() -> None:
    """REFERENCE: q, k and v share one x and gate and up another, 16 bit; or each keeps its own in
    float32. A share between 20 and 40 %."""
    verdict = judge("FA1", measured("lora-fa", "peak_bytes", lambda seed: 90_000_000))
    for name in ("Llama-2-7b", "Llama-2-70b"):
        assert f"by forecast for {name}" in verdict.reason.en
    share = re.search(r"Llama-2-7b, .*? of which (\d+)% is the method", verdict.reason.en)
    assert share
    assert 20 <= int(share[1]) <= 40


# -- what no rule may do -----------------------------------------------------------------------


def supporting(claim: str) -> list[Record]:
    """The first records by which a claim is supported."""
    return next(
        build for name, expected, build in CASES if (name, expected) == (claim, "supported")
    )()


def moved(stored: Iterable[Record], **environment: Any) -> list[Record]:
    """The same runs elsewhere."""
    return [
        record.model_copy(update={"environment": record.environment.model_copy(update=environment)})
        for record in stored
    ]


def relabel(stored: list[Record], method: str, **environment: Any) -> list[Record]:
    """The same runs, those of one method elsewhere."""
    there = [record for record in stored if record.spec.method == method]
    return [record for record in stored if record.spec.method != method] + moved(
        there, **environment
    )


OURS = {
    "F2": "full",
    "L4": "lora",
    "FA1": "lora-fa",
    "FA2": "lora-fa",
    "FA3": "lora-fa",
    "V1": "vera",
    "V2": "vera",
    "V3": "vera",
}
OURS |= {"D1": "delta-lora", "D2": "delta-lora", "P1": "lora+", "P2": "lora+"}


COST_CLAIMS = ("FA1", "FA2", "D2")  # bytes or seconds are compared
STRUCTURAL = ("D2", "V1")  # counted once for each model


@pytest.mark.parametrize(
    "where", [{"device_name": "another"}, {"torch": "1.0"}, {"transformers": "1.0"}]
)
@pytest.mark.parametrize("claim", OURS)
def test_bytes_and_seconds_are_compared_on_one_device_and_stack_quality_on_any(
    claim: str, where: dict[str, str]
) -> None:
    moved = relabel(supporting(claim), OURS[claim], **where)
    assert judge(claim, moved).decision == ("undecided" if claim in COST_CLAIMS else "supported")


@pytest.mark.parametrize("claim", [*OURS, "L1", "F3"])
def test_what_was_learned_counts_once_for_each_seed_whatever_ran_it(claim: str) -> None:
    once = supporting(claim)
    twice = [*once, *moved(once, device_name="another")]
    verdicts = judge(claim, once), judge(claim, twice)
    often = 2 if claim in COST_CLAIMS and claim not in STRUCTURAL else 1
    assert len(verdicts[1].runs) == len(verdicts[0].runs) * often
    assert verdicts[0].decision == verdicts[1].decision == "supported"


@pytest.mark.parametrize("claim", ["L2", "FA2"])
@pytest.mark.parametrize("load", ["load_at_start", "load_at_end"])
def test_seconds_count_only_of_runs_that_had_the_machine_to_themselves(
    claim: str, load: str
) -> None:
    busy = moved(supporting(claim), **{load: 3.0})
    assert judge(claim, busy).decision == "undecided"
    assert "timed" in judge(claim, busy).reason.en
    two = [r for r in supporting(claim) if r.spec.seed < 2]
    assert judge(claim, [*two, *[r for r in busy if r.spec.seed >= 2]]).decision == "undecided"
    three = [r for r in supporting(claim) if r.spec.seed < 3]
    verdict = judge(claim, [*three, *[r for r in busy if r.spec.seed >= 3]])
    assert verdict.decision == "supported"
    assert {run.seed for run in verdict.runs} == {0, 1, 2}


def test_bytes_count_however_busy_the_machine_was() -> None:
    assert judge("FA1", moved(supporting("FA1"), load_at_end=9.0)).decision == "supported"


@pytest.mark.parametrize("claim", sorted({*OURS} - {"FA1", "FA2", "V1", "D2"}))
def test_too_few_seeds_are_undecided_and_said(claim: str) -> None:
    for name, expected, build in CASES:
        if name == claim and expected != "undecided":
            verdict = judge(
                claim, [record for record in build() if record.spec.seed < MIN_SEEDS - 1]
            )
            assert verdict.decision == "undecided"
            assert f"{lora.STABLE_SEEDS if claim == 'L4' else 5} seeds" in verdict.reason.en
            assert "4" in verdict.reason.en
            assert verdict.runs == ()


@pytest.mark.parametrize("claim", sorted({*OURS} - {"FA1", "FA2", "V1", "D2"}))
def test_seeds_count_that_both_arms_have(claim: str) -> None:
    missing = [
        record
        for record in supporting(claim)
        if record.spec.method != OURS[claim] or record.spec.seed
    ]
    assert judge(claim, missing).decision == "undecided"


@pytest.mark.parametrize("claim", OURS)
def test_seeds_that_saw_other_examples_are_not_compared(claim: str) -> None:
    other = [
        record.model_copy(update={"data": record.data.model_copy(update={"fingerprint": "0" * 64})})
        if record.data and record.spec.method == OURS[claim]
        else record
        for record in supporting(claim)
    ]
    assert judge(claim, other).decision == "undecided"


@pytest.mark.parametrize("claim", ["L2", "FA2"])
def test_two_timed_runs_are_too_few(claim: str) -> None:
    for name, expected, build in CASES:
        if name == claim and expected != "undecided":
            assert (
                judge(claim, [record for record in build() if record.spec.seed < 2]).decision
                == "undecided"
            )
            assert (
                judge(claim, [record for record in build() if record.spec.seed < 3]).decision
                == expected
            )


def test_what_eight_directions_of_the_change_score_stands_beside_the_whole() -> None:
    """Of the runs that know it: the older ones do not."""
    older, unsaid = energy(0.05), "the model scores"
    assert unsaid not in judge("F3", older).reason.en
    generated = [
        record.model_copy(update={"metrics": record.metrics | {"nll.rank8": 0.75}})
        for record in arm("full", 0.8, seeds=1, model="m", metrics={"energy8.weight": 0.05})
    ]
    reason = judge("F3", [*older, *generated]).reason.en
    assert reason.endswith(
        "scores: nll 0.7500 instead of 0.5000 (means over the runs that know both)."
    )
    truncated = arm(
        "full",
        0.8,
        seeds=2,
        task="sst2",
        metrics=lambda seed: {
            "energy8.weight": 0.05,
            "accuracy.rank8": 0.7 + 0.02 * seed,
            "nll.rank8": 0.65,
        },
    )
    verdict = judge("F3", [*older, *generated, *truncated])
    said = "first 8 of dW alone the model scores: primary metric 0.7100 instead of 0.8000, nll"
    assert f"{said} 0.6833 instead of 0.5000" in verdict.reason.en
    assert "仅保留 dW 的前 8 个时:主指标 0.7100,完整时 0.8000" in verdict.reason.zh
    assert verdict.decision == judge("F3", older).decision


def twice(*controls: float | None, merged: float = 1.01, **changed: Any) -> list[Record]:
    """Runs of LoRA by seed, where the plain model timed again took so many times as long."""
    cost = [latency(0.004, 0.004 * merged, 1e-5, one and 0.004 * one) for one in controls]
    return arm("lora", cost=cost.__getitem__, seeds=len(cost), **changed)


def test_the_control_stands_beside_the_ratio_and_nothing_is_subtracted() -> None:
    verdict = judge("L2", twice(1.017, 1.018, 1.016, 1.017, 1.017, merged=1.017))
    assert verdict.decision == "supported"
    assert effect(verdict).value == pytest.approx(1.017)
    assert "control / base 1.017 [1.0" in verdict.reason.en
    assert "1.017 [1.0" in verdict.reason.zh
    assert "too coarse" not in verdict.reason.en
    again = judge("L2", twice(1.0, 1.001, 0.999, 1.0, 1.0, merged=1.017))
    assert effect(again).value == pytest.approx(1.017)


@pytest.mark.parametrize("merged", [1.0, 1.2])
@pytest.mark.parametrize(
    "controls",
    [
        pytest.param([1.06, 1.061, 1.059, 1.06, 1.06], id="slower"),
        pytest.param([0.94, 0.941, 0.939, 0.94, 0.94], id="faster"),
        pytest.param([1.1, 0.9, 1.12, 0.88, 1.0], id="uncertain"),
    ],
)
def test_a_measurement_that_errs_by_the_margin_decides_nothing(
    controls: Sequence[float], merged: float
) -> None:
    verdict = judge("L2", twice(*controls, merged=merged))
    assert verdict.decision == "undecided"
    assert "in 1 of 1 block with such a control the measurement is too coarse" in verdict.reason.en
    fine = twice(*[1.0] * 5, merged=merged, model="another")
    both = judge("L2", [*twice(*controls, merged=merged), *fine])
    assert both.decision == "undecided"
    assert "in 1 of 2 blocks with such a control" in both.reason.en
    assert len(both.runs) == 10


def test_runs_with_a_control_speak_for_their_block_where_they_are_enough() -> None:
    """The older ones timed the loaded weights against new ones."""
    older = twice(*[None] * 5, merged=1.2)
    verdict = judge("L2", older)
    assert verdict.decision == "refuted"
    assert "the error of the measurement is not known" in verdict.reason.en
    few, enough = [1.0, 1.0, None, None, None], [1.0, 1.0, 1.0, None, None]
    assert len(judge("L2", twice(*few, merged=1.2)).runs) == 5
    assert {run.seed for run in judge("L2", twice(*enough)).runs} == {0, 1, 2}


@pytest.mark.parametrize("claim", sorted({*OURS, "L1", "L2", "F3"}))
def test_what_was_run_to_tune_is_no_evidence(claim: str) -> None:
    valid = [asked(record, split="valid") for record in supporting(claim)]
    assert judge(claim, valid).decision == "undecided"


@pytest.mark.parametrize("claim", ["F2", "FA3", "V2", "V3", "D1", "P1", "P2", "L4"])
def test_where_nothing_is_learned_nothing_is_judged(claim: str) -> None:
    """Equal scores of a failed comparison, at the frozen model's level, are no equality."""
    for name, expected, build in CASES:
        if name == claim and expected == "supported":
            scores = {
                record.spec.method: record.metrics["accuracy"] or 0
                for record in build()
                if record.status == "done"
            }
            best = max(score for method, score in scores.items() if method != "frozen")
            floor = {"accuracy": best + 0.1, "nll": 0.05}
            lifted = [
                record.model_copy(update={"metrics": record.metrics | floor})
                if record.spec.method == "frozen"
                else record
                for record in build()
                if record.status == "done"
            ]
            assert judge(claim, lifted).decision == "undecided"
            without = [
                record
                for record in build()
                if record.spec.method != "frozen" and record.status == "done"
            ]
            assert judge(claim, without).decision == "undecided"
            return


def test_a_method_that_learned_nothing_is_neither_steady_nor_free_of_overfitting() -> None:
    idle = [
        *floor(),
        *arm("lora", noise=0.01),
        *arm("vera", 0.5, noise=0.001, curve=[0.7] * 20, metrics={"nll": 0.7}),
    ]
    assert judge("L4", idle).decision == "undecided"
    assert judge("V2", idle).decision == "undecided"


@pytest.mark.parametrize(
    ("claim", "setting"),
    [("FA1", {"rank": 4}), ("FA2", {"rank": 4}), ("FA3", {"rank": 4}), ("D2", {"rank": 4})],
)
def test_adapters_of_different_rank_are_not_compared(claim: str, setting: dict[str, Any]) -> None:
    changed = [
        asked(record, args=record.spec.args | setting) if record.spec.method == "lora" else record
        for record in supporting(claim)
    ]
    assert judge(claim, changed).decision == "undecided"


def test_delta_lora_needs_its_control_and_the_right_tasks() -> None:
    stored = delta(0.82, noise=0.001)
    without = [record for record in stored if record.spec.args.get("alpha") != 24.0]
    assert judge("D1", without).decision == "undecided"
    assert "alpha x (1 + lambda)" in judge("D1", without).reason.en
    other = [
        asked(record, args=record.spec.args | {"alpha": 25.0})
        if record.spec.args.get("alpha") == 24.0
        else record
        for record in stored
    ]
    assert judge("D1", other).decision == "undecided"
    assert judge("D1", delta(0.82, noise=0.001, tasks=TASKS)).decision == "undecided"


@pytest.mark.parametrize(("plain", "control"), [(0.8, 0.805), (0.805, 0.8)])
def test_delta_lora_s_gain_is_the_smaller_of_the_two(plain: float, control: float) -> None:
    gain = effect(judge("D1", delta(0.82, plain, control, noise=0.001))).value
    assert gain == pytest.approx(0.015 + 0.001 * statistics.fmean(NOISE[:5]))


@pytest.mark.parametrize(
    "studies",
    [(None, None), (None, TUNED), (TUNED, None), (TUNED, StudyReference(name="other", trials=8))],
)
def test_lora_plus_is_judged_at_equal_tuning_only(
    studies: tuple[StudyReference | None, StudyReference | None],
) -> None:
    assert judge("P1", speeds(8.0, noise=0.1, studies=studies)).decision == "undecided"
    assert "equally many trials" in judge("P1", speeds(8.0, noise=0.1, studies=studies)).reason.en
    stored = [
        asked(record, study=studies[record.spec.method == "lora+"])
        for record in benchmarks(0.82, 0.82, noise=0.001)
    ]
    assert judge("P2", stored).decision == "undecided"


def test_few_samples_need_a_second_size_and_a_small_one() -> None:
    one = [record for record in few(0.82, 0.001) if record.spec.data.train == 100]
    assert judge("V3", one).decision == "undecided"
    assert judge("V3", few(0.82, 0.001, least=vera.FEW_EXAMPLES + 1)).decision == "undecided"
    assert judge("V3", few(0.82, 0.001, least=vera.FEW_EXAMPLES)).decision == "supported"


def test_few_samples_must_be_where_vera_is_better() -> None:
    """Losing less than with many examples is no excellence."""
    assert judge("V3", few(0.79, 0.001, many=0.7)).decision == "undecided"


def test_few_samples_may_go_with_fewer_steps() -> None:
    """Steps and batch follow the number of examples: sizes still are sizes of one task."""
    large = [record for record in few(0.82, 0.001) if record.spec.data.train == 5000]
    fewer = {"steps": 20, "batch_size": 4}
    small = against("vera", "lora", 0.82, noise=0.001, data=DataSpec(train=100), train=fewer)
    assert judge("V3", small + large).decision == "supported"
    other = against("vera", "lora", 0.7, noise=0.001, data=DataSpec(train=100))
    verdict = judge("V3", small + other + large)
    assert verdict.reason.en == "Supported in 2 and refuted in 2 of 4 comparisons."


@pytest.mark.parametrize("train", [{"steps": 50}, {"batch_size": 8}, {"precision": "bf16"}])
@pytest.mark.parametrize("claim", OURS)
def test_arms_of_other_steps_batch_or_precision_are_not_compared(
    claim: str, train: dict[str, Any]
) -> None:
    changed = [
        asked(record, train=record.spec.train.model_copy(update=train))
        if record.spec.method == OURS[claim]
        else record
        for record in supporting(claim)
    ]
    assert judge(claim, changed).decision == "undecided"


def test_an_arm_whose_seeds_were_tuned_differently_is_not_equally_tuned() -> None:
    mixed = [
        asked(record, study=None)
        if record.spec.method == "lora+" and record.spec.seed == 0
        else record
        for record in supporting("P2")
    ]
    assert "equally many trials" in judge("P2", mixed).reason.en


def test_tuned_arms_are_compared_before_others() -> None:
    stored = [*benchmarks(0.82, 0.82, noise=0.001)]
    for task in ("reviews", "sst2"):
        stored += arm("lora", 0.9, task=task, args={"alpha": 8.0}) + arm(
            "lora+", 0.7, task=task, args={"alpha": 8.0}
        )
    assert judge("P2", stored).decision == "supported"


# -- numbers, recomputed -----------------------------------------------------------------------


def test_speed_is_the_geometric_mean_of_paired_ratios() -> None:
    rng = random.Random(1)
    ours, theirs = ([rng.uniform(800, 1200) for _ in range(5)] for _ in range(2))
    stored = [
        *arm("lora", cost=lambda seed: {"tokens_per_second": theirs[seed]}),
        *arm("lora-fa", cost=lambda seed: {"tokens_per_second": ours[seed]}),
    ]
    random.Random(2).shuffle(stored)
    verdict = judge("FA2", stored)
    logs = [math.log(one / other) for one, other in zip(ours, theirs, strict=True)]
    interval = distributions.ttest_1samp(logs, 0).confidence_interval(0.95)
    assert effect(verdict) == pytest.approx(
        (
            statistics.geometric_mean(math.exp(log) for log in logs),
            math.exp(interval.low),
            math.exp(interval.high),
        )
    )


def test_gap_is_test_less_the_end_of_training() -> None:
    rng = random.Random(3)
    tests = [0.3 + 0.1 * rng.random() for _ in range(10)]
    curves = [[0.2 + 0.001 * rng.random() for _ in range(20)] for _ in range(10)]
    train = {"steps": 10_000}
    stored = [*floor(train=train)]
    for i, method in enumerate(("lora", "vera")):
        stored += arm(
            method,
            curve=lambda seed, i=i: curves[5 * i + seed],
            metrics=lambda seed, i=i: {"nll": tests[5 * i + seed]},
            train=train,
        )
    verdict = judge("V2", on_tasks(stored))
    gap = [
        tests[i] - statistics.fmean(curves[i][-2:]) for i in range(10)
    ]  # a tenth of twenty points
    expected = distributions.ttest_rel(gap[:5], gap[5:]).confidence_interval(0.95)
    difference = statistics.fmean(gap[:5]) - statistics.fmean(gap[5:])
    assert effect(verdict) == pytest.approx((difference, expected.low, expected.high))


def test_convergence_is_the_area_between_the_curves() -> None:
    for fast in (8.0, 1.0):
        area = statistics.fmean(falling(4.0)) - statistics.fmean(falling(fast))
        assert effect(judge("P1", speeds(fast))) == pytest.approx((area, area, area))


@pytest.mark.parametrize("claim", ["P1", "V2"])
def test_a_curve_that_is_too_short_is_not_judged(claim: str) -> None:
    short = [
        record.model_copy(update={"curve": record.curve[: loss_curves.POINTS - 1]})
        if record.spec.method == "lora"
        else record
        for record in supporting(claim)
    ]
    assert judge(claim, short).decision == "undecided"


def test_spread_is_the_paired_distance_from_the_median() -> None:
    verdict = judge("L4", stability(0.004, 0.01))
    far = np.abs(np.array(NOISE) - np.median(NOISE))
    expected = distributions.ttest_1samp(0.006 * far, 0).confidence_interval(0.95)
    assert effect(verdict) == pytest.approx((0.006 * far.mean(), expected.low, expected.high))


def test_quality_is_the_mean_difference_over_seeds() -> None:
    verdict = judge("FA3", against("lora-fa", "lora", 0.793, noise=0.001))
    difference = 0.793 - 0.8 + 0.001 * statistics.fmean(NOISE[:5])
    assert effect(verdict).value == pytest.approx(difference)


def test_differences_that_are_equal_but_for_rounding_are_a_point() -> None:
    numbers = [0.3, 0.1 + 0.2, 0.3, 0.8 - 0.5, 0.3]
    assert len(set(numbers)) > 1
    interval = mean(numbers)
    assert interval
    assert interval == pytest.approx((0.3, 0.3, 0.3))
    assert interval.low <= interval.value <= interval.high
    assert mean([*numbers[:4], None]) is None


def scored(
    stored: list[Record], examples: int, rng: np.random.Generator
) -> tuple[list[Record], dict[str, pd.DataFrame]]:
    """The same runs with predictions whose scores have the run's accuracy, nearly, as their mean,
    and records that say so. A method finds the same examples easy with every seed."""
    order = {
        method: rng.permutation(examples)
        for method in dict.fromkeys(record.spec.method for record in stored)
    }
    tables: dict[str, pd.DataFrame] = {}
    made: list[Record] = []
    for record in stored:
        right = order[record.spec.method] < round((record.metrics["accuracy"] or 0) * examples)
        nll = record.metrics["nll"] or 0
        apart, target = order[record.spec.method] / examples - 0.5, np.arange(examples) % 2
        tables[Run(record).key] = pd.DataFrame(
            {
                "id": [f"test/{i}" for i in range(examples)],
                "subset": "",
                "sample": 0,
                "target": target,
                "answer": np.where(right, target, 1 - target),
            }
            | {"nll": nll + apart - apart.mean(), "count": 1, "score": right.astype(float)}
        )
        metrics = record.metrics | {"accuracy": float(right.mean()), "nll": nll}
        made.append(
            record.model_copy(
                update={
                    "metrics": metrics,
                    "predictions": PredictionsFile(rows=examples, sha256="0" * 64),
                }
            )
        )
    return made, tables


def test_quality_rests_on_examples_where_there_are_predictions() -> None:
    """400 examples leave open what the spread of seeds alone would call settled."""
    stored, tables = scored(
        against("lora-fa", "lora", 0.8, noise=0.002), 400, np.random.default_rng(0)
    )
    alone = judge("FA3", stored)
    with_examples = judge("FA3", stored, tables.__getitem__)
    assert alone.decision == "supported"
    assert with_examples.decision == "undecided"
    assert effect(alone).value == pytest.approx(effect(with_examples).value)


def test_predictions_are_asked_for_by_key_where_devices_have_runs_of_one_id() -> None:
    stored, tables = scored(
        against("lora-fa", "lora", 0.8, noise=0.002), 400, np.random.default_rng(0)
    )
    elsewhere = moved(stored, device_name="another")
    asked: list[str] = []

    def read(key: str) -> pd.DataFrame:
        asked.append(key)
        return tables[key]

    verdict = judge("FA3", [*stored, *elsewhere], read)
    assert verdict == replace(judge("FA3", stored, read), runs=verdict.runs)
    assert asked
    assert verdict.reason.en.startswith("Supported in 0 and refuted in 0 of 2 comparisons.")


# -- judging -----------------------------------------------------------------------------------


def test_an_interval_decides_only_on_one_side_of_the_margin() -> None:
    two = Effect(2, 1, 3)
    assert above(two, 1) == "supported"
    assert above(two, 1.1) == "undecided"
    assert above(two, 3) == "undecided"
    assert above(two, 3.1) == "refuted"
    assert below(two, 3) == "supported"
    assert below(two, 2.9) == "undecided"
    assert below(two, 1) == "undecided"
    assert below(two, 0.9) == "refuted"
    assert both("supported", "supported") == "supported"
    assert both("supported", "undecided") == "undecided"
    assert both("undecided", "refuted") == "refuted"


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        *(
            ("", "undecided"),
            ("s", "supported"),
            ("r", "refuted"),
            ("u", "undecided"),
            ("su", "undecided"),
            ("ssu", "supported"),
        ),
        *(("ssssr", "undecided"), ("rrrrs", "undecided"), ("rru", "refuted"), ("ru", "undecided")),
    ],
)
def test_comparisons_add_up_to_a_majority_without_dissent(outcomes: str, expected: str) -> None:
    names: dict[str, Decision] = {"s": "supported", "r": "refuted", "u": "undecided"}
    assert together([names[outcome] for outcome in outcomes]) == expected


def test_pooled_interval_is_the_range_of_what_is_exact() -> None:
    assert pooled([Effect(1, 1, 1), Effect(2, 2, 2)]) == (1.5, 1, 2)
    assert pooled([Effect(1, 0, 2), Effect(2, 0, 4)]) == (1.5, 0, 3)
    assert pooled([]) is None


def test_rules_name_their_margins() -> None:
    margins = {
        "F2": -CLOSE.points,
        "L2": lora.LATENCY_TIMES,
        "L3": lora.FEW_MB,
        "FA1": lora_fa.MEMORY_TIMES,
        "FA2": lora_fa.FASTER_TIMES,
        "FA3": -LITTLE_LOSS.points,
        "V2": vera.GAP_NATS_PER_TOKEN,
        "V3": GAIN.points,
        "D1": GAIN.points,
        "P1": lora_plus.FASTER_NATS,
        "P2": GAIN.points,
    }
    claims = [verdict.claim for verdict in verdicts(Results(()))]
    rules = {claim.id: claim.rule for claim in claims}
    assert list(rules) == IDS
    for claim, margin in margins.items():
        assert str(margin) in rules[claim].en
        assert str(margin) in rules[claim].zh


# -- as text -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study() -> Verdicts:
    return Verdicts(Results(tuple(records.study(seeds=5))))


def decided(stored: Iterable[Record]) -> set[str]:
    return {
        verdict.claim.id
        for verdict in verdicts(Results(tuple(stored)))
        if verdict.decision != "undecided"
    }


def test_an_empty_store_leaves_arithmetic_alone() -> None:
    assert [verdict.claim.id for verdict in verdicts(Results(()))] == IDS
    assert decided([]) == COMPUTED
    assert all(verdict.reason.en and verdict.claim.rule.en for verdict in verdicts(Results(())))


def test_failures_only_are_undecided() -> None:
    stored = [records.record(method=method, status="failed") for method in records.ARGS]
    assert decided(stored) == COMPUTED


def test_json_and_csv_hold_every_field(study: Verdicts) -> None:
    content = json.loads(as_text(study, "json"))
    assert [row["claim"] for row in content] == IDS
    table = list(csv.DictReader(io.StringIO(as_text(study, "csv"))))
    for verdict, row, line in zip(verdicts(study.results), content, table, strict=True):
        limits = verdict.effect or (None, None, None)
        claim, fields = verdict.claim, ("text", "unit", "rule", "reason", "verdict")
        words = claim.text.en, verdict.unit.en, claim.rule.en, verdict.reason.en, verdict.decision
        expected = dict(zip((*fields, "effect", "low", "high"), (*words, *limits), strict=True))
        assert row == expected | {
            "claim": claim.id,
            "run_ids": [run.record.run_id for run in verdict.runs],
        }
        for name, value in expected.items():
            assert line[name] == ("" if value is None else str(value))
        assert json.loads(line["run_ids"]) == row["run_ids"]


def test_a_run_id_that_several_devices_have_is_told_with_its_device() -> None:
    stored = supporting("FA1")
    keys = {row["claim"]: row["run_ids"] for row in Verdicts(Results(tuple(stored))).rows()}
    assert set(keys["FA1"]) == {record.run_id for record in stored}
    both = [*stored, *moved(stored, device_name="another")]
    keys = {row["claim"]: row["run_ids"] for row in Verdicts(Results(tuple(both))).rows()}
    assert set(keys["FA1"]) == {Run(record).key for record in both}


def test_markdown_has_a_row_and_a_rule_for_each_claim(study: Verdicts) -> None:
    text = as_text(study, "md")
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert [row.split(" | ")[0].removeprefix("| ").strip() for row in rows] == IDS
    assert all(len(row.split(" | ")) == 6 for row in rows)
    notes = [line for line in text.splitlines() if line.startswith("- ")]
    assert [note.split(":")[0] for note in notes[:-1]] == [f"- {claim}" for claim in IDS]
    assert "chance" in notes[-1]
    for note, verdict in zip(notes[:-1], verdicts(study.results), strict=True):
        shown = note.replace("\\", "")
        assert f"{verdict.reason.en} Rule: {verdict.claim.rule.en}" in shown


def test_chinese_changes_the_words_and_nothing_else(study: Verdicts) -> None:
    english, chinese = (study.sheet(lang).sections[0] for lang in ("en", "zh"))
    for one, other in zip(english.rows, chinese.rows, strict=True):
        assert [one[i] for i in (0, 3, 5)] == [other[i] for i in (0, 3, 5)]
        assert all(is_chinese(other[i]) and not is_chinese(one[i]) for i in (1, 2))
    assert all(is_chinese(text) for text in (*chinese.notes, study.sheet("zh").legend))
    assert not any(is_chinese(text) for text in (*english.notes, study.sheet("en").legend))
    for verdict in verdicts(study.results):
        assert is_chinese(verdict.reason.zh)
        assert is_chinese(verdict.claim.rule.zh)
    assert "成立" in as_text(study, "md", "zh")


def is_chinese(text: str) -> bool:
    return any("一" <= char <= "鿿" for char in text)


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_latex_is_balanced(study: Verdicts, lang: Any) -> None:
    text = as_text(study, "latex", lang)
    body = text.replace(r"\{", "").replace(r"\}", "")
    assert body.count("{") == body.count("}")
    assert not [line for line in text.splitlines()[1:] if "%" in line.replace(r"\%", "")]
    assert text.count(r"\\") == len(IDS) + 1


def test_equal_stores_give_equal_verdicts(study: Verdicts) -> None:
    stored = list(records.study(seeds=5))
    random.Random(0).shuffle(stored)
    again = Verdicts(Results(tuple(stored)))
    assert again.rows() == study.rows()
    assert again.sheet("zh") == study.sheet("zh")
