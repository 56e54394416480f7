"""A recommendation is what the records say, and nothing is recommended that they do not cover."""

import math
import random
from typing import Any

import pytest
import records
from scipy import stats as distributions

from peftbench.analysis.frame import frame
from peftbench.analysis.recommend import GIB, HEADROOM, NEARBY, Recommendation, recommend, render
from peftbench.record import CudaPeaks, Data, Record
from peftbench.spec import DataSpec, StudyReference


def arm(
    method: str,
    scores: list[float],
    peak: float = 100e6,
    reserved: int | None = None,
    **changed: Any,
) -> list[Record]:
    """An arm's runs, one a seed, with these scores and this peak."""
    made: list[Record] = []
    for seed, score in enumerate(scores):
        record = records.record(
            method=method, seed=seed, metrics={"accuracy": score, "nll": 1 - score}, **changed
        )
        cuda = CudaPeaks(train=reserved, eval=None) if reserved else None
        cost = record.cost and record.cost.model_copy(
            update={"peak_bytes": int(peak), "cuda_reserved_bytes": cuda}
        )
        made.append(record.model_copy(update={"cost": cost}))
    return made


def ask(
    *found: list[Record],
    model: str = "minilm",
    task: str = "reviews",
    memory: float = 1.0,
    samples: int | None = None,
) -> Recommendation:
    return recommend(
        frame([record for each in found for record in each]), model, task, memory, samples
    )


def test_the_best_mean_that_fits() -> None:
    full, lora = (
        arm("full", [0.9, 0.92, 0.91], peak=500e6),
        arm("lora", [0.8, 0.82, 0.81], train={"lr": 2e-4, "batch_size": 8}),
    )
    fa = arm("lora-fa", [0.7, 0.72, 0.71], peak=50e6)
    assert ask(full, lora, fa).method == "full"
    found = ask(full, lora, fa, memory=0.2)
    assert (found.method, found.rank, found.lr, found.batch_size) == ("lora", 8, 2e-4, 8)
    assert found.peak_bytes == 100e6
    assert found.run_ids == tuple(record.run_id for record in lora)
    assert (found.seeds, found.arms) == (3, 2)
    interval = distributions.ttest_1samp([0.8, 0.82, 0.81], 0).confidence_interval(0.95)
    assert (found.mean, found.low, found.high) == pytest.approx((0.81, interval.low, interval.high))


def test_the_budget_holds_the_peak_and_its_headroom() -> None:
    lora = arm("lora", [0.8, 0.81])
    enough = 100e6 * HEADROOM / GIB
    assert ask(lora, memory=enough * 1.0001).method == "lora"
    assert ask(lora, memory=enough * 0.9999).method is None


def test_what_cuda_reserves_goes_before_live_tensors() -> None:
    assert ask(arm("lora", [0.8, 0.81], peak=100e6, reserved=2 * GIB)).method is None
    assert ask(arm("lora", [0.8, 0.81], peak=100e6, reserved=GIB // 2)).peak_bytes == GIB // 2


@pytest.mark.parametrize(
    "question", [{"model": "other"}, {"task": "other"}, {"memory": 0.01}, {"samples": 100}]
)
def test_what_is_not_covered_is_not_known(question: dict[str, Any]) -> None:
    found = ask(arm("lora", [0.8, 0.81, 0.82]), **question)
    assert found.method is None
    assert found.run_ids == ()
    assert found.reason
    assert "I do not know" in render(found)
    assert ask(**question).method is None


@pytest.mark.parametrize(
    "changed", [{"split": "valid"}, {"status": "failed"}, {"status": "diverged"}]
)
def test_only_finished_test_runs_count(changed: dict[str, Any]) -> None:
    assert (
        ask([records.record(method="lora", seed=seed, **changed) for seed in range(3)]).method
        is None
    )


def test_a_failed_run_takes_nothing_from_its_arm() -> None:
    lora = arm("lora", [0.8, 0.81])
    found = ask(lora, [records.record(method="lora", seed=2, status="failed")])
    assert found.run_ids == tuple(record.run_id for record in lora)


def test_an_arm_whose_memory_is_unknown_is_not_recommended() -> None:
    unmeasured = [record.model_copy(update={"cost": None}) for record in arm("full", [0.9, 0.9])]
    assert ask(unmeasured, arm("lora", [0.8, 0.8])).method == "lora"
    assert "no peak memory" in ask(unmeasured).reason


def test_training_that_does_not_pay_is_not_recommended() -> None:
    floor = arm("frozen", [0.8, 0.8])
    found = ask(floor, arm("lora", [0.8, 0.8]))
    assert found.method is None
    assert "frozen" in found.reason
    assert (found := ask(floor, arm("lora", [0.81, 0.8]))).method == "lora"
    assert found.arms == 1
    assert "cannot be told from the frozen model" in found.reason
    assert "cannot be told" not in ask(floor, arm("lora", [0.9, 0.91])).reason
    assert ask(floor).method is None


def test_examples_within_a_factor() -> None:
    small = arm("lora", [0.7, 0.7], data=DataSpec(train=100))
    large = arm("full", [0.9, 0.9], data=DataSpec(train=1000))
    assert ask(small, large).method == "full"
    assert ask(small, large, samples=100).method == "lora"
    assert ask(small, large, samples=int(100 * NEARBY)).method == "lora"
    assert ask(small, large, samples=int(1000 / NEARBY)).method == "full"
    assert ask(small, large, samples=400).method is None
    assert ask(small, large, samples=2001).method is None
    everything = ask(
        small, arm("full", [0.9, 0.9]), samples=4000
    )  # what "all" comes to stands in the records
    assert (everything.method, everything.trained_on) == ("full", 4000)


def test_a_floor_that_trained_on_nothing_is_seen_beside_the_others() -> None:
    untrained = Data(source="packaged", revision=None, fingerprint="f" * 64, counts={"test": 50})
    floor = [made.model_copy(update={"data": untrained}) for made in arm("frozen", [0.95, 0.95])]
    for method in ("full", "lora"):  # before the floor in the frame, and after it
        assert ask(floor, arm(method, [0.7, 0.7]), samples=4000).method is None
        assert (
            "none scores above the frozen model"
            in ask(floor, arm(method, [0.7, 0.7]), samples=4000).reason
        )
    assert "says how many examples" in ask(floor).reason


def test_devices_are_not_mixed() -> None:
    """The better arm ran elsewhere, with fewer runs."""
    elsewhere = [
        record.model_copy(
            update={"environment": record.environment.model_copy(update={"device_name": "another"})}
        )
        for record in arm("full", [0.9, 0.9])
    ]
    found = ask(elsewhere, arm("lora", [0.8, 0.8, 0.8]))
    assert found.method == "lora"
    assert found.arms == 1


def test_a_leaner_arm_is_named_where_it_is_as_good() -> None:
    best = arm("full", [0.80, 0.82, 0.79, 0.81, 0.80], peak=500e6)
    alike = arm("lora", [0.79, 0.82, 0.80, 0.80, 0.80])
    worse = arm("vera", [0.70, 0.72, 0.69, 0.71, 0.70], peak=50e6)
    found = ask(best, alike, worse)
    assert found.method == "full"
    assert found.leaner is not None
    assert found.leaner.startswith("lora (")
    assert ask(best, worse).leaner is None
    assert ask(alike, worse).leaner is None
    assert ask([*best[:2]], [*alike[:2]]).leaner is None  # two seeds tell nothing apart


def test_one_seed_is_weak_evidence_without_an_interval() -> None:
    found = ask(arm("lora", [0.8]))
    assert found.method == "lora"
    assert found.low is None
    assert "weak" in found.reason
    assert "weak" not in ask(arm("lora", [0.8, 0.81, 0.82])).reason
    assert "interval" not in render(found)


def test_tuning_effort_is_said() -> None:
    tuned = ask(arm("lora", [0.8, 0.82], study=StudyReference(name="tuned", trials=16)))
    assert tuned.trials == 16
    assert "tuned with 16 trials" in render(tuned)
    assert ask(arm("lora", [0.8, 0.82])).trials is None
    assert "not tuned" in render(ask(arm("lora", [0.8, 0.82])))


def test_words_hold_what_was_found() -> None:
    lora = arm("lora", [0.8, 0.82, 0.81], train={"lr": 2e-4})
    text = render(ask(lora, samples=None))
    for part in (
        "lora",
        "rank 8",
        "0.0002",
        "batch 16",
        "95.4 MiB",
        "0.8100",
        "3 seeds",
        *(record.run_id for record in lora),
    ):
        assert part in text


def test_equal_stores_give_equal_answers() -> None:
    found = list(records.study(seeds=4))
    first = recommend(frame(found), "minilm", "sst2", 1.0)
    random.Random(1).shuffle(found)
    assert recommend(frame(found), "minilm", "sst2", 1.0) == first
    assert first.method == "full"
    assert math.isfinite(first.mean or math.nan)
