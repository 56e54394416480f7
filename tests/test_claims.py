"""Every claim can come out in all three ways, and each comes out as its rule says."""

import csv
import io
import json
import math
import random
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import records
from scipy import stats as distributions

from peftbench.analysis.frame import frame
from peftbench.article import claims, evidence, rules
from peftbench.article.evidence import Case, above, below, both, gather, pooled, together
from peftbench.article.llama_shapes import LLAMA_7B, LLAMA_70B, Shape
from peftbench.article.verdict import Verdict, render
from peftbench.record import Latency, Parts, Point, Predictions, Record, Spread
from peftbench.spec import DataSpec, StudyReference

IDS = [
    "F1",
    "F2",
    "F3",
    "L1",
    "L2",
    "L3",
    "L4",
    "FA1",
    "FA2",
    "FA3",
    "V1",
    "V2",
    "V3",
    "D1",
    "D2",
    "P1",
    "P2",
]
JUDGES: dict[str, Callable[[evidence.Evidence], Verdict]] = {
    name: getattr(claims, name.lower()) for name in IDS if name != "F1"
}
NOISE = (0.3, 1.0, -1.0, 0.6, -0.9)
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
    **changed: Any,
) -> list[Record]:
    """An arm's runs, one a seed: metric + noise x NOISE; cost, metrics and the curve's training
    losses may depend on the seed; the first `lost` runs diverged."""
    made: list[Record] = []
    for seed in range(seeds):
        if seed < lost:
            made.append(records.record(method=method, seed=seed, status="diverged", **changed))
            continue
        own, extra, losses = (
            value(seed) if callable(value) else value for value in (cost, metrics, curve)
        )
        value = metric + noise * NOISE[seed]
        record = records.record(
            method=method,
            seed=seed,
            metrics={"accuracy": value, "nll": 1.3 - value, **(extra or {})},
            **changed,
        )
        paid = record.cost and record.cost.model_copy(
            update={"peak_bytes": 10**8, "tokens_per_second": 1000.0, **(own or {})}
        )
        points = (
            record.curve
            if losses is None
            else [Point(step=i + 1, train_loss=loss) for i, loss in enumerate(losses)]
        )
        made.append(record.model_copy(update={"cost": paid, "curve": tuple(points)}))
    return made


def floor(**changed: Any) -> list[Record]:
    return arm("frozen", 0.5, **changed)


def judge(claim: str, found: Iterable[Record]) -> Verdict:
    found = list(found)
    return JUDGES[claim](gather(frame(found), found, None, np.random.default_rng(0)))


def latency(base: float, merged: float, iqr: float) -> dict[str, Any]:
    spread = [Spread(median=median, iqr=iqr, n=9) for median in (base, base, merged)]
    return {"latency_seconds": Latency(base=spread[0], adapted=spread[1], merged=spread[2])}


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
    return [
        *floor(**changed),
        *arm(reference, theirs, **changed),
        *arm(method, ours, noise=noise, **changed),
    ]


def few(ours: float, noise: float = 0.0, least: int = 100) -> list[Record]:
    sizes = [DataSpec(train=least), DataSpec(train=5000)]
    return [
        record for data in sizes for record in against("vera", "lora", ours, noise=noise, data=data)
    ]


def delta(
    ours: float, plain: float = 0.8, control: float = 0.8, noise: float = 0.0, task: str = "gsm8k"
) -> list[Record]:
    return [
        *against("delta-lora", "lora", ours, plain, noise, task=task),
        *arm("lora", control, task=task, args={"alpha": 24.0}),
    ]


def speeds(
    ours: float,
    theirs: float = 4.0,
    noise: float = 0.0,
    studies: tuple[StudyReference | None, StudyReference | None] = (TUNED, TUNED),
) -> list[Record]:
    return [
        *floor(),
        *arm("lora", 0.8, curve=falling(theirs), study=studies[0]),
        *arm(
            "lora+", 0.8, curve=lambda seed: falling(ours + noise * NOISE[seed]), study=studies[1]
        ),
    ]


def benchmarks(*ours: float, noise: float = 0.0, **changed: Any) -> list[Record]:
    """LoRA+ against LoRA's 0.8 on as many tasks, both tuned."""
    found: list[Record] = []
    for task, value in zip(("reviews", "sst2", "rte"), ours, strict=False):
        found += [*floor(task=task), *arm("lora", 0.8, task=task, study=TUNED)]
        found += arm("lora+", value, noise=noise, task=task, **{"study": TUNED} | changed)
    return found


def stability(lora: float, others: float, lost: tuple[int, int] = (0, 0)) -> list[Record]:
    found = [*floor(), *arm("lora", noise=lora, lost=lost[0])]
    return [
        *found,
        *(
            record
            for method in claims.VARIANTS
            for record in arm(method, noise=others, lost=lost[1])
        ),
    ]


def sizes(claim: str, *shares: float) -> list[Record]:
    """One task each, where VeRA or LoRA trains so much: of LoRA's parameters (V1) or of the model's
    (L1)."""
    found: list[Record] = []
    for share, task in zip(shares, ("reviews", "sst2"), strict=False):
        whole = records.TRAINED["lora"] if claim == "V1" else records.TOTAL - records.HEAD
        if claim == "V1":
            found += arm("lora", task=task)
        found += arm(
            "vera" if claim == "V1" else "lora",
            task=task,
            cost={"trained_params": round(share * whole)},
            model=f"{task} model",
        )
        if claim == "V1":
            found = [record for record in found if record.spec.method == "vera"]
            found += [
                record
                for each in dict.fromkeys(r.spec.model for r in found)
                for record in arm("lora", model=each, task=each.split()[0])
            ]
    return found


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


def gaps(vera: float, noise: float = 0.0) -> list[Record]:
    """LoRA's test nll is 0.3 above its training nll, VeRA's `vera`."""
    return [
        *floor(),
        *arm("lora", curve=[0.2] * 20, metrics={"nll": 0.5}),
        *arm(
            "vera", curve=[0.2] * 20, metrics=lambda seed: {"nll": 0.2 + vera + noise * NOISE[seed]}
        ),
    ]


def energy(*weight: float) -> list[Record]:
    tasks = ("reviews", "sst2")
    return [
        record
        for task, value in zip(tasks, weight, strict=False)
        for record in arm(
            "full", task=task, metrics={"energy8.weight": value, "energy8.change": 0.95}
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
        lambda: [
            *floor(),
            *arm("full", 0.81),
            *arm("lora", 0.81, noise=0.001, cost={"trained_params": 2_000_000}),
        ],
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
    ("L4", "undecided", lambda: stability(0.01, 0.02)),
    ("L4", "refuted", lambda: stability(0.001, 0.01, lost=(5, 0))),
    ("L4", "supported", lambda: stability(0.01, 0.01, lost=(0, 5))),
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
    ("FA3", "undecided", lambda: against("lora-fa", "lora", 0.793, noise=0.02)),
    ("V1", "supported", lambda: sizes("V1", 0.09)),
    ("V1", "refuted", lambda: sizes("V1", 0.2)),
    ("V1", "undecided", lambda: sizes("V1", 0.09, 0.2)),
    ("V2", "supported", lambda: gaps(0.25, 0.001)),
    ("V2", "refuted", lambda: gaps(0.295, 0.001)),
    ("V2", "undecided", lambda: gaps(0.25, 0.1)),
    ("V3", "supported", lambda: few(0.82, 0.001)),
    ("V3", "refuted", lambda: few(0.8, 0.001)),
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
    found = build()
    verdict = judge(claim, found)
    assert verdict.verdict == expected, verdict
    assert verdict.claim == claim
    assert set(verdict.run_ids) <= {record.run_id for record in found}
    assert len(verdict.run_ids) == len(set(verdict.run_ids)) > 0
    if verdict.effect is not None:
        assert verdict.low is not None
        assert verdict.high is not None
        assert verdict.low <= verdict.effect <= verdict.high


def test_every_claim_comes_out_in_all_three_ways() -> None:
    ways = {claim: {expected for name, expected, _ in CASES if name == claim} for claim in IDS}
    assert all(
        ways[claim] == {"supported", "refuted", "undecided"} for claim in set(IDS) - {"F1", "L3"}
    )


@pytest.mark.parametrize(
    ("layers", "expected"), [(32, "refuted"), (180, "undecided"), (400, "supported")]
)
def test_file_and_training_memory_are_arithmetic(layers: int, expected: str) -> None:
    verdict = claims.f1(replace(LLAMA_7B, layers=layers))
    assert verdict.verdict == expected
    assert verdict.run_ids == ()
    assert "computed, not measured" in verdict.reason.lower()


def test_seven_billion_parameters_are_thirteen_gigabytes() -> None:
    verdict = claims.f1()
    assert verdict.effect == pytest.approx(13.476831232)
    assert verdict.high == pytest.approx(2 * 13.476831232)


@pytest.mark.parametrize(
    ("layers", "expected"), [(80, "refuted"), (20, "undecided"), (1, "supported")]
)
def test_adapter_of_a_70b_model(layers: int, expected: str) -> None:
    found = arm("lora", cost={"trained_params": 1000, "head_params": 0, "adapter_file_bytes": 4000})
    for runs in ([], found):
        evidence = gather(frame(runs), runs, None, np.random.default_rng(0))
        verdict = claims.l3(evidence, replace(LLAMA_70B, layers=layers))
        assert verdict.verdict == expected
        assert len(verdict.run_ids) == len(runs)


def test_adapter_file_of_the_store_sets_the_bytes_of_a_parameter() -> None:
    found = arm("lora", cost={"trained_params": 1000, "head_params": 0, "adapter_file_bytes": 8000})
    verdict = judge("L3", found)
    assert verdict.high == pytest.approx(LLAMA_70B.lora(8) * 8 / 1e6)
    assert "8.00 bytes" in verdict.reason


def test_published_parameter_counts() -> None:
    """Llama-2's model cards; litgpt's LoRA tables (7B, q and v, rank 8)."""
    assert LLAMA_7B.params() == 6_738_415_616
    assert LLAMA_70B.params() == 68_976_648_192
    assert LLAMA_7B.lora(8, ("q", "v")) == 4_194_304
    llama_3b = Shape(hidden=3072, kv=1024, intermediate=8192, layers=28, vocabulary=128_256)
    assert llama_3b.lora(32, ("q", "v")) == 9_175_040  # peft's method_comparison


def test_kept_bytes_of_a_7b_block() -> None:
    assert LLAMA_7B.kept() == 2 * (2 * 4096 + 11008) == 38_400
    assert LLAMA_7B.kept_cast() == 4 * (6 * 4096 + 11008) == 142_336
    assert (
        "38,400" in judge("FA1", measured("lora-fa", "peak_bytes", lambda seed: 90_000_000)).reason
    )


# -- what no rule may do
# ---------------------------------------------------------------------------------------------


def relabel(found: list[Record], method: str, **environment: Any) -> list[Record]:
    """The same runs, those of one method elsewhere."""
    there = [record for record in found if record.spec.method == method]
    moved = [
        record.model_copy(update={"environment": record.environment.model_copy(update=environment)})
        for record in there
    ]
    return [record for record in found if record.spec.method != method] + moved


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


@pytest.mark.parametrize(
    "where", [{"device_name": "another"}, {"torch": "1.0"}, {"transformers": "1.0"}]
)
@pytest.mark.parametrize("claim", OURS)
def test_devices_and_stacks_are_never_compared(claim: str, where: dict[str, str]) -> None:
    build = next(
        build for name, expected, build in CASES if (name, expected) == (claim, "supported")
    )
    assert judge(claim, relabel(build(), OURS[claim], **where)).verdict == "undecided"


@pytest.mark.parametrize("claim", sorted({*OURS} - {"FA1", "FA2", "V1", "D2"}))
def test_too_few_seeds_are_undecided_and_said(claim: str) -> None:
    for name, expected, build in CASES:
        if name == claim and expected != "undecided":
            verdict = judge(
                claim, [record for record in build() if record.spec.seed < evidence.MIN_SEEDS - 1]
            )
            assert verdict.verdict == "undecided"
            assert "5 seeds" in verdict.reason
            assert "4" in verdict.reason
            assert verdict.run_ids == ()


@pytest.mark.parametrize("claim", sorted({*OURS} - {"FA1", "FA2", "V1", "D2"}))
def test_seeds_count_that_both_arms_have(claim: str) -> None:
    build = next(
        build for name, expected, build in CASES if (name, expected) == (claim, "supported")
    )
    missing = [
        record for record in build() if record.spec.method != OURS[claim] or record.spec.seed
    ]
    assert judge(claim, missing).verdict == "undecided"


@pytest.mark.parametrize("claim", ["L2", "FA2"])
def test_two_timed_runs_are_too_few(claim: str) -> None:
    for name, expected, build in CASES:
        if name == claim and expected != "undecided":
            assert (
                judge(claim, [record for record in build() if record.spec.seed < 2]).verdict
                == "undecided"
            )
            assert (
                judge(claim, [record for record in build() if record.spec.seed < 3]).verdict
                == expected
            )


@pytest.mark.parametrize("claim", sorted({*OURS, "L1", "L2", "F3"}))
def test_what_was_run_to_tune_is_no_evidence(claim: str) -> None:
    build = next(
        build for name, expected, build in CASES if (name, expected) == (claim, "supported")
    )
    valid = [
        record.model_copy(update={"spec": record.spec.model_copy(update={"split": "valid"})})
        for record in build()
    ]
    assert judge(claim, valid).verdict == "undecided"


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
            lifted = [
                record.model_copy(update={"metrics": record.metrics | {"accuracy": best + 0.1}})
                if record.spec.method == "frozen"
                else record
                for record in build()
                if record.status == "done"
            ]
            assert judge(claim, lifted).verdict == "undecided"
            without = [
                record
                for record in build()
                if record.spec.method != "frozen" and record.status == "done"
            ]
            assert judge(claim, without).verdict == "undecided"
            return


def test_a_method_that_learned_nothing_is_neither_steady_nor_free_of_overfitting() -> None:
    idle = [
        *floor(),
        *arm("lora", noise=0.01),
        *arm("vera", 0.5, noise=0.001, curve=[0.7] * 20, metrics={"nll": 0.7}),
    ]
    assert judge("L4", idle).verdict == "undecided"
    assert judge("V2", idle).verdict == "undecided"


@pytest.mark.parametrize(
    ("claim", "setting"),
    [("FA1", {"rank": 4}), ("FA2", {"rank": 4}), ("FA3", {"rank": 4}), ("D2", {"rank": 4})],
)
def test_adapters_of_different_rank_are_not_compared(claim: str, setting: dict[str, Any]) -> None:
    build = next(
        build for name, expected, build in CASES if (name, expected) == (claim, "supported")
    )
    changed = [
        record.model_copy(
            update={"spec": record.spec.model_copy(update={"args": record.spec.args | setting})}
        )
        if record.spec.method == "lora"
        else record
        for record in build()
    ]
    assert judge(claim, changed).verdict == "undecided"


def test_delta_lora_needs_its_control_and_the_right_tasks() -> None:
    found = delta(0.82, noise=0.001)
    without = [record for record in found if record.spec.args.get("alpha") != 24.0]
    assert judge("D1", without).verdict == "undecided"
    assert "alpha x (1 + lambda)" in judge("D1", without).reason
    other = [record.model_copy(update={"spec": record.spec.model_copy(update={"args": record.spec.args | {"alpha": 25.0}})})
             if record.spec.args.get("alpha") == 24.0 else record for record in found]  # fmt: skip
    assert judge("D1", other).verdict == "undecided"
    assert judge("D1", delta(0.82, noise=0.001, task="reviews")).verdict == "undecided"


@pytest.mark.parametrize(
    "studies",
    [(None, None), (None, TUNED), (TUNED, None), (TUNED, StudyReference(name="other", trials=8))],
)
def test_lora_plus_is_judged_at_equal_tuning_only(
    studies: tuple[StudyReference | None, StudyReference | None],
) -> None:
    assert judge("P1", speeds(8.0, noise=0.1, studies=studies)).verdict == "undecided"
    assert "equally many trials" in judge("P1", speeds(8.0, noise=0.1, studies=studies)).reason
    found = [
        record.model_copy(
            update={
                "spec": record.spec.model_copy(
                    update={"study": studies[record.spec.method == "lora+"]}
                )
            }
        )
        for record in benchmarks(0.82, 0.82, noise=0.001)
    ]
    assert judge("P2", found).verdict == "undecided"


def test_few_samples_need_a_second_size_and_a_small_one() -> None:
    one = [record for record in few(0.82, 0.001) if record.spec.data.train == 100]
    assert judge("V3", one).verdict == "undecided"
    assert judge("V3", few(0.82, 0.001, least=rules.FEW_SAMPLES + 1)).verdict == "undecided"
    assert judge("V3", few(0.82, 0.001, least=rules.FEW_SAMPLES)).verdict == "supported"


def test_few_samples_look_at_the_least_size_alone() -> None:
    small = [record for record in few(0.82, 0.001) if record.spec.data.train == 100]
    large = [record for record in few(0.7, 0.001) if record.spec.data.train == 5000]
    assert judge("V3", small + large).verdict == "supported"


def test_tuned_arms_are_compared_before_others() -> None:
    found = [*benchmarks(0.82, 0.82, noise=0.001)]
    for task in ("reviews", "sst2"):
        found += arm("lora", 0.9, task=task, args={"alpha": 8.0}) + arm(
            "lora+", 0.7, task=task, args={"alpha": 8.0}
        )
    assert judge("P2", found).verdict == "supported"


# -- numbers, recomputed
# ---------------------------------------------------------------------------------------------


def test_speed_is_the_geometric_mean_of_paired_ratios() -> None:
    rng = random.Random(1)
    ours, theirs = ([rng.uniform(800, 1200) for _ in range(5)] for _ in range(2))
    found = [
        *arm("lora", cost=lambda seed: {"tokens_per_second": theirs[seed]}),
        *arm("lora-fa", cost=lambda seed: {"tokens_per_second": ours[seed]}),
    ]
    random.Random(2).shuffle(found)
    verdict = judge("FA2", found)
    logs = [math.log(one / other) for one, other in zip(ours, theirs, strict=True)]
    interval = distributions.ttest_1samp(logs, 0).confidence_interval(0.95)
    assert verdict.effect == pytest.approx(statistics.geometric_mean(math.exp(log) for log in logs))
    assert (verdict.low, verdict.high) == pytest.approx(
        (math.exp(interval.low), math.exp(interval.high))
    )


def test_gap_is_test_less_the_end_of_training() -> None:
    rng = random.Random(3)
    tests, curves = ([[rng.random() for _ in range(n)] for _ in range(10)] for n in (1, 20))
    found = [*floor()]
    for i, method in enumerate(("lora", "vera")):
        found += arm(
            method,
            curve=lambda seed, i=i: curves[5 * i + seed],
            metrics=lambda seed, i=i: {"nll": tests[5 * i + seed][0]},
        )
    verdict = judge("V2", found)
    gap = [
        tests[i][0] - statistics.fmean(curves[i][-2:]) for i in range(10)
    ]  # a tenth of twenty points
    expected = distributions.ttest_rel(gap[:5], gap[5:]).confidence_interval(0.95)
    assert verdict.effect == pytest.approx(statistics.fmean(gap[:5]) - statistics.fmean(gap[5:]))
    assert (verdict.low, verdict.high) == pytest.approx((expected.low, expected.high))


def test_steps_to_the_final_loss() -> None:
    """A curve that falls twice as fast is at exp(-4) halfway."""
    verdict = judge("P1", speeds(8.0))
    window, steps = 4, 40
    smooth = [
        statistics.fmean(falling(8.0)[end - window : end]) for end in range(window, steps + 1)
    ]
    target = statistics.fmean(falling(4.0)[-window:])
    reached = window + next(i for i, loss in enumerate(smooth) if loss <= target)
    assert verdict.effect == pytest.approx(steps / reached)
    assert 1.7 < steps / reached < 2
    never = judge("P1", speeds(1.0))
    assert never.effect == pytest.approx(steps / (steps + 1))


def test_spread_is_the_ratio_of_standard_deviations() -> None:
    verdict = judge("L4", stability(0.004, 0.01))
    assert verdict.effect == pytest.approx(2.5)
    quantile = distributions.f.ppf(0.975, 4, 4)
    assert (verdict.low, verdict.high) == pytest.approx(
        (2.5 / math.sqrt(quantile), 2.5 * math.sqrt(quantile))
    )


def test_quality_is_the_mean_difference_over_seeds() -> None:
    verdict = judge("FA3", against("lora-fa", "lora", 0.793, noise=0.001))
    assert verdict.effect == pytest.approx(0.793 - 0.8 + 0.001 * statistics.fmean(NOISE))


def scored(
    found: list[Record], examples: int, rng: np.random.Generator
) -> tuple[list[Record], dict[str, pd.DataFrame]]:
    """The same runs with predictions whose scores have the run's accuracy, nearly, as their mean,
    and records that say so. A method finds the same examples easy with every seed."""
    order = {
        method: rng.permutation(examples)
        for method in dict.fromkeys(record.spec.method for record in found)
    }
    tables: dict[str, pd.DataFrame] = {}
    made: list[Record] = []
    for record in found:
        right = order[record.spec.method] < round((record.metrics["accuracy"] or 0) * examples)
        nll = record.metrics["nll"] or 0
        tables[record.run_id] = pd.DataFrame(
            {
                "id": [f"test/{i}" for i in range(examples)],
                "subset": "",
                "sample": 0,
                "target": 1,
                "answer": right.astype(int),
            }
            | {"nll": nll, "count": 1, "score": right.astype(float)}
        )
        metrics = record.metrics | {"accuracy": float(right.mean()), "nll": nll}
        made.append(
            record.model_copy(
                update={
                    "metrics": metrics,
                    "predictions": Predictions(rows=examples, sha256="0" * 64),
                }
            )
        )
    return made, tables


def test_quality_rests_on_examples_where_there_are_predictions() -> None:
    """400 examples leave open what the spread of seeds alone would call settled."""
    found, tables = scored(
        against("lora-fa", "lora", 0.8, noise=0.002), 400, np.random.default_rng(0)
    )
    runs = frame(found)
    alone, with_examples = (
        claims.fa3(gather(runs, found, source, np.random.default_rng(0)))
        for source in (None, tables.__getitem__)
    )
    assert alone.verdict == "supported"
    assert with_examples.verdict == "undecided"
    assert alone.effect == pytest.approx(with_examples.effect)


def test_predictions_are_not_asked_for_where_their_id_is_ambiguous() -> None:
    found, _ = scored(against("lora-fa", "lora", 0.8, noise=0.002), 400, np.random.default_rng(0))
    elsewhere = [
        record.model_copy(
            update={"environment": record.environment.model_copy(update={"device_name": "another"})}
        )
        for record in found
    ]

    def never(run_id: str) -> pd.DataFrame:
        raise AssertionError(run_id)

    verdict = claims.fa3(
        gather(frame([*found, *elsewhere]), [*found, *elsewhere], never, np.random.default_rng(0))
    )
    assert verdict.verdict == "supported"
    assert verdict.reason.startswith("Supported in 2")


# -- judging
# ---------------------------------------------------------------------------------------------------------


def test_an_interval_decides_only_on_one_side_of_the_margin() -> None:
    assert above((2, 1, 3), 1) == "supported"
    assert above((2, 1, 3), 1.1) == "undecided"
    assert above((2, 1, 3), 3) == "undecided"
    assert above((2, 1, 3), 3.1) == "refuted"
    assert below((2, 1, 3), 3) == "supported"
    assert below((2, 1, 3), 2.9) == "undecided"
    assert below((2, 1, 3), 1) == "undecided"
    assert below((2, 1, 3), 0.9) == "refuted"
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
    names: dict[str, evidence.Outcome] = {"s": "supported", "r": "refuted", "u": "undecided"}
    assert together([Case(names[outcome], None, ()) for outcome in outcomes]) == expected


def test_pooled_interval_is_the_range_of_what_is_exact() -> None:
    exact = [Case("supported", (value, value, value), ()) for value in (1.0, 2.0)]
    assert pooled(exact) == (1.5, 1.0, 2.0)
    assert pooled([Case("supported", (1, 0, 2), ()), Case("supported", (2, 0, 4), ())]) == (
        1.5,
        0,
        3,
    )
    assert pooled([Case("supported", None, ())]) is None


def test_rules_name_their_margins() -> None:
    margins = {
        "F2": rules.CLOSE,
        "L2": rules.LATENCY,
        "L3": rules.FEW_MB,
        "FA1": rules.MEMORY,
        "FA2": rules.FASTER,
        "FA3": rules.LOSS,
    }
    margins |= {
        "V2": rules.GAP,
        "V3": rules.GAIN,
        "D1": rules.GAIN,
        "P1": rules.FASTER,
        "P2": rules.GAIN,
    }
    assert list(rules.CLAIMS) == IDS
    for claim, margin in margins.items():
        assert str(margin) in rules.CLAIMS[claim].rule.en
        assert str(margin) in rules.CLAIMS[claim].rule.zh


# -- as text
# ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study() -> list[Verdict]:
    found = list(records.study(seeds=5))
    return claims.verdicts(frame(found), found, None, np.random.default_rng(0))


def test_an_empty_store_leaves_arithmetic_alone() -> None:
    found = claims.verdicts(frame([]), [], None, np.random.default_rng(0))
    assert [verdict.claim for verdict in found] == IDS
    assert {verdict.claim for verdict in found if verdict.verdict != "undecided"} == {"F1", "L3"}
    assert all(verdict.reason and verdict.rule for verdict in found)


def test_failures_only_are_undecided() -> None:
    found = [records.record(method=method, status="failed") for method in records.ARGS]
    made = claims.verdicts(frame(found), found, None, np.random.default_rng(0))
    assert {verdict.claim for verdict in made if verdict.verdict != "undecided"} == {"F1", "L3"}


def test_json_and_csv_hold_every_field(study: list[Verdict]) -> None:
    content = json.loads(render(study, "json"))
    assert [row["claim"] for row in content] == IDS
    table = list(csv.DictReader(io.StringIO(render(study, "csv"))))
    for verdict, row, line in zip(study, content, table, strict=True):
        for name in ("text", "verdict", "unit", "rule", "reason", "effect", "low", "high"):
            assert row[name] == getattr(verdict, name)
            assert line[name] == ("" if row[name] is None else str(row[name]))
        assert tuple(row["run_ids"]) == tuple(line["run_ids"].split()) == verdict.run_ids


def test_markdown_has_a_row_and_a_rule_for_each_claim(study: list[Verdict]) -> None:
    text = render(study, "md")
    rows = [line for line in text.splitlines() if line.startswith("| ")][2:]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == IDS
    assert all(len(row.split(" | ")) == 7 for row in rows)
    assert [line.split(":")[0] for line in text.splitlines() if line.startswith("- ")] == [
        f"- {claim}" for claim in IDS
    ]


def test_chinese_changes_the_words_and_nothing_else(study: list[Verdict]) -> None:
    english, chinese = (json.loads(render(study, "json", lang)) for lang in ("en", "zh"))
    for one, other in zip(english, chinese, strict=True):
        assert all(
            any("一" <= char <= "鿿" for char in other[name]) for name in ("text", "rule", "reason")
        )
        for name in one.keys() - {"text", "unit", "rule", "reason"}:
            assert one[name] == other[name]
    assert "成立" in render(study, "md", "zh")


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_latex_is_balanced(study: list[Verdict], lang: Any) -> None:
    text = render(study, "latex", lang)
    body = text.replace(r"\{", "").replace(r"\}", "")
    assert body.count("{") == body.count("}")
    assert not [line for line in text.splitlines()[1:] if "%" in line.replace(r"\%", "")]
    assert text.count(r"\\") == len(IDS) + 1


def test_equal_stores_give_equal_verdicts(study: list[Verdict]) -> None:
    found = list(records.study(seeds=5))
    random.Random(0).shuffle(found)
    assert claims.verdicts(frame(found), found, None, np.random.default_rng(0)) == study
