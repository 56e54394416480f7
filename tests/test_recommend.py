"""A recommendation is what the records say, and nothing is recommended that they do not cover."""

import json
import math
import random
from dataclasses import asdict
from typing import Any

import pytest
import records
from scipy import stats as distributions
from sheets import predicted

from peftbench import unmeasured
from peftbench.analysis.nearest import nearest
from peftbench.analysis.recommend import (
    GIB,
    HEADROOM,
    NEARBY,
    Recommendation,
    described,
    recommend,
)
from peftbench.analysis.results import Results
from peftbench.record import CudaMemory, CudaPeaks, Data, Record
from peftbench.spec import DataSpec, StudyReference
from peftbench.tables import comparison

ELSEWHERE = records.environment(device_name="another")


def arm(
    method: str,
    scores: list[float],
    peak: float = 100e6,
    reserved: int | None = None,
    **changed: Any,
) -> list[Record]:
    """An arm's runs, one a seed, with these scores and this peak."""
    members: list[Record] = []
    for seed, score in enumerate(scores):
        record = records.record(
            method=method, seed=seed, metrics={"accuracy": score, "nll": 1 - score}, **changed
        )
        assert record.footprint is not None
        footprint = record.footprint.model_copy(update={"peak_bytes": int(peak)})
        unknown = CudaPeaks(train=None, eval=None)
        cuda = CudaMemory(
            allocated_bytes=unknown, reserved_bytes=CudaPeaks(train=reserved, eval=None)
        )
        members.append(
            record.model_copy(update={"footprint": footprint, "cuda": cuda if reserved else None})
        )
    return members


def ask(
    *arms: list[Record],
    model: str = "minilm",
    task: str = "reviews",
    memory: float = 1.0,
    samples: int | None = None,
) -> Recommendation:
    members = tuple(record for runs in arms for record in runs)
    return recommend(Results(members), model, task, memory, samples)


def test_the_best_mean_that_fits() -> None:
    full, lora = (
        arm("full", [0.9, 0.92, 0.91], peak=500e6),
        arm("lora", [0.8, 0.82, 0.81], train={"lr": 2e-4}),
    )
    fa = arm("lora-fa", [0.7, 0.72, 0.71], peak=50e6)
    assert ask(full, lora, fa).method == "full"
    answer = ask(full, lora, fa, memory=0.2)
    assert (answer.method, answer.args["rank"], answer.lr) == ("lora", 8, 2e-4)
    assert (answer.batch_size, answer.steps) == (16, 100)
    assert answer.peak_bytes == 100e6
    assert answer.run_ids == tuple(record.run_id for record in lora)
    assert (answer.seeds, answer.arms) == (3, 2)
    interval = distributions.ttest_1samp([0.8, 0.82, 0.81], 0).confidence_interval(0.95)
    assert (answer.mean, answer.low, answer.high) == pytest.approx(
        (0.81, interval.low, interval.high)
    )


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
    answer = ask(arm("lora", [0.8, 0.81, 0.82]), **question)
    assert answer.method is None
    assert answer.run_ids == ()
    assert answer.reason
    assert "I do not know" in described(answer)
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
    answer = ask(lora, [records.record(method="lora", seed=2, status="failed")])
    assert answer.run_ids == tuple(record.run_id for record in lora)


def test_an_arm_whose_memory_is_unknown_is_not_recommended() -> None:
    unmeasured = [
        record.model_copy(update={"footprint": None}) for record in arm("full", [0.9, 0.9])
    ]
    assert ask(unmeasured, arm("lora", [0.8, 0.8])).method == "lora"
    assert "no peak memory" in ask(unmeasured).reason


def test_training_that_does_not_pay_is_not_recommended() -> None:
    floor = arm("frozen", [0.8, 0.8])
    answer = ask(floor, arm("lora", [0.8, 0.8]))
    assert answer.method is None
    assert "frozen" in answer.reason
    doubtful = ask(floor, arm("lora", [0.81, 0.8]))  # not by more than chance
    assert doubtful.method is None
    assert "by more than chance" in doubtful.reason
    assert (answer := ask(floor, arm("lora", [0.9, 0.91]))).method == "lora"
    assert answer.arms == 1
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
    floor = [
        record.model_copy(update={"data": untrained}) for record in arm("frozen", [0.95, 0.95])
    ]
    for method in ("full", "lora"):  # before the floor in the block, and after it
        assert ask(floor, arm(method, [0.7, 0.7]), samples=4000).method is None
        assert (
            "none is above the frozen model"
            in ask(floor, arm(method, [0.7, 0.7]), samples=4000).reason
        )
    assert "says how many examples" in ask(floor).reason


@pytest.mark.parametrize(
    "other",
    [
        {"train": {"steps": 200}},
        {"train": {"batch_size": 8}},
        {"train": {"precision": "bf16"}},
        {"task_version": 2},
        {"data": DataSpec(max_length=64)},
    ],
    ids=str,
)
def test_questions_are_not_mixed(other: dict[str, Any]) -> None:
    """The better arm answers another question, with fewer runs."""
    answer = ask(arm("full", [0.9, 0.9], **other), arm("lora", [0.8, 0.8, 0.8]))
    assert answer.method == "lora"
    assert answer.arms == 1


def test_devices_are_pooled_and_the_greatest_peak_counts() -> None:
    here = arm("full", [0.9, 0.91], peak=100e6)
    there = arm("full", [0.9, 0.91, 0.92], peak=300e6, environment=ELSEWHERE)
    lora = arm("lora", [0.8, 0.8, 0.8])
    answer = ask(here, there, lora)
    assert (answer.method, answer.seeds, answer.arms) == ("full", 3, 2)
    assert answer.peak_bytes == 300e6
    assert "AMD EPYC, 2 threads, cpu: another; torch" in answer.where
    assert ask(here, there, lora, memory=0.2).method == "lora"
    unmeasured = [record.model_copy(update={"footprint": None}) for record in there]
    assert ask(here, unmeasured, lora).peak_bytes == 100e6
    reserved = arm("full", [0.9, 0.91, 0.92], reserved=GIB // 2, device="cuda")
    assert ask(here, reserved, lora).peak_bytes == GIB // 2


def test_a_leaner_arm_is_named_where_it_is_as_good() -> None:
    best = arm("full", [0.80, 0.82, 0.79, 0.81, 0.80], peak=500e6)
    alike = arm("lora", [0.79, 0.82, 0.80, 0.80, 0.80])
    worse = arm("vera", [0.70, 0.72, 0.69, 0.71, 0.70], peak=50e6)
    answer = ask(best, alike, worse)
    assert answer.method == "full"
    assert answer.leaner is not None
    assert answer.leaner.startswith("lora (")
    assert ask(best, worse).leaner is None
    assert ask(alike, worse).leaner is None
    assert ask([*best[:2]], [*alike[:2]]).leaner is None  # two seeds tell nothing apart


def test_one_seed_is_weak_evidence_without_an_interval() -> None:
    answer = ask(arm("lora", [0.8]))
    assert answer.method == "lora"
    assert answer.low is None
    assert "weak" in answer.reason
    assert "weak" not in ask(arm("lora", [0.8, 0.81, 0.82])).reason
    assert "interval" not in described(answer)


def test_tuning_effort_is_said() -> None:
    tuned = ask(arm("lora", [0.8, 0.82], study=StudyReference(name="tuned", trials=16)))
    assert tuned.trials == 16
    assert "tuned with 16 trials" in described(tuned)
    assert ask(arm("lora", [0.8, 0.82])).trials is None
    assert "not tuned" in described(ask(arm("lora", [0.8, 0.82])))


def test_words_hold_what_was_found() -> None:
    lora = arm("lora", [0.8, 0.82, 0.81], train={"lr": 2e-4})
    text = described(ask(lora, samples=None))
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
    members = list(records.study(seeds=4))
    first = recommend(Results(tuple(members)), "minilm", "sst2", 1.0)
    random.Random(1).shuffle(members)
    assert recommend(Results(tuple(members)), "minilm", "sst2", 1.0) == first
    assert first.method == "full"
    assert math.isfinite(first.mean or math.nan)


def test_the_interval_is_that_of_the_table() -> None:
    members, tables = predicted("lora", [30, 31, 33])
    results = Results(tuple(members), tables.__getitem__)
    answer = recommend(results, "minilm", "reviews", 1.0)
    (row,) = comparison(results).rows()
    assert (answer.mean, answer.low, answer.high, answer.over) == tuple(
        row[name] for name in ("metric", "metric.low", "metric.high", "metric.over")
    )
    assert "95% interval over seeds and examples" in described(answer)


def test_the_paired_test_of_the_tables_decides_what_is_alike() -> None:
    best, of_best = predicted("full", [31, 32, 31, 33])
    other, of_other = predicted("lora", [32, 30, 31, 32])
    worse, of_worse = predicted("vera", [4, 6, 3, 5])
    results = Results((*best, *other, *worse), (of_best | of_other | of_worse).__getitem__)
    answer = recommend(results, "minilm", "reviews", 1.0)
    assert answer.method == "full"
    assert answer.leaner is not None
    assert answer.leaner.startswith("lora (")


def test_an_answer_is_plain_json() -> None:
    for answer in (ask(arm("lora", [0.8, 0.81])), ask()):
        content = json.loads(json.dumps(asdict(answer), allow_nan=False))
        assert isinstance(content["args"], dict)
        assert content["method"] == answer.method


# -- a model that nobody has run ---------------------------------------------------------------


def test_the_nearest_model_is_that_of_the_nearest_size_on_the_task() -> None:
    made = [
        *sized_arm("small", 10**7, "lora", [0.6, 0.7, 0.65]),
        *sized_arm("large", 10**9, "lora", [0.8, 0.81, 0.82]),
        *sized_arm("large", 10**9, "full", [0.9, 0.91, 0.92]),
        *sized_arm("nearer", 2 * 10**9, "lora", [0.5, 0.5, 0.5], task="cola"),
    ]
    answer = nearest(Results(tuple(made)), "reviews", 3 * 10**9)
    assert answer is not None
    assert (answer.model, answer.params, answer.metric) == ("large", 10**9, "accuracy")
    assert [rank.label for rank in answer.ranks] == ["full", "lora"]
    assert [rank.mean for rank in answer.ranks] == pytest.approx([0.91, 0.81])
    assert nearest(Results(tuple(made)), "rte", 10**9) is None


def sized_arm(
    model: str, params: int, method: str, scores: list[float], **others: Any
) -> list[Record]:
    made: list[Record] = []
    for record in arm(method, scores, model=model, **others):
        assert record.footprint is not None
        footprint = record.footprint.model_copy(update={"total_params": params})
        made.append(record.model_copy(update={"footprint": footprint}))
    return made


def test_what_is_measured_estimated_and_unknown_is_kept_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    methods = ("full", "lora")  # of all of them it takes two minutes
    monkeypatch.setattr("peftbench.methods.OURS", methods)
    made = Results(tuple(sized_arm("small", 10**7, "lora", [0.6, 0.7, 0.65])))
    name = "HuggingFaceTB/SmolLM2-135M"
    assert unmeasured.is_unmeasured(made, name)
    assert not unmeasured.is_unmeasured(made, "small")
    plenty, little = (unmeasured.unmeasured(made, name, "reviews", gib) for gib in (80, 2.0))
    assert [need.method for need in plenty.needs] == [*methods]
    assert all(need.changes == () for need in plenty.needs)
    changes = {need.method: need.changes for need in little.needs}
    assert changes["lora"]
    assert "micro-batch 1" in changes["lora"]
    assert changes["full"] is None or "nf4 base" not in changes["full"]
    text = unmeasured.described(little)
    heads = [text.index(f"  {head} ") for head in ("measured", "estimated", "unknown")]
    assert heads == sorted(heads)
    assert "another model, small (10 M parameters), accuracy" in text
    assert "nothing was run" in text


def test_a_model_that_cannot_be_estimated_is_said_to_be() -> None:
    answer = unmeasured.unmeasured(Results(()), "no/such model", "reviews", 8)
    assert answer.needs == ()
    text = unmeasured.described(answer)
    assert "nothing: the store has no finished test run on reviews" in text
    assert "nothing: unknown model" in text
