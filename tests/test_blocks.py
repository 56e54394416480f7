"""Runs, arms and blocks: nothing lost, nothing mixed, and every arm told apart."""

import itertools
import random
import statistics
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

import pytest
import records
from counted import calls

from peftbench.analysis import grouping, measures
from peftbench.analysis.blocks import (
    METHOD_ORDER,
    Block,
    Question,
    Run,
    grouped,
    method_order,
)
from peftbench.analysis.grouping import cost_blocks, counted, labelled, quality_blocks
from peftbench.analysis.labels import arm_labels, differing, facts, names
from peftbench.analysis.results import Results
from peftbench.record import CudaMemory, CudaPeaks, Footprint, Parts, Record, Spread, Timing
from peftbench.spec import DataSpec, LimitSpec, StudyReference


def blocks(*found: Record) -> tuple[Block, ...]:
    return quality_blocks(map(Run, found))


def labels(*found: Record) -> set[str]:
    return {arm.label for block in blocks(*found) for arm in block.arms}


def loads(start: float | None, end: float | None) -> dict[str, Any]:
    return {"environment": records.environment(load_at_start=start, load_at_end=end)}


# -- which runs count --------------------------------------------------------------------------


def test_trials_answer_no_question_and_whatever_was_scored_on_valid_is_tuning() -> None:
    tuned = StudyReference(name="glue", trials=20)
    trial = tuned.model_copy(update={"trial": 0})
    final = records.record(study=tuned)
    untuned = records.record(method="vera")
    on_valid = records.record(split="valid")
    searched = records.record(split="valid", seed=1, study=trial, status="pruned")
    everything = [final, untuned, on_valid, searched]
    assert [run.record for run in counted(everything, "final")] == [final, untuned, on_valid]
    assert [run.record for run in counted(everything, "tuning")] == [on_valid, searched]
    assert [run.record for run in Results(tuple(everything)).trials] == [searched]
    (tested,) = blocks(final, untuned)
    assert [arm.trials for arm in tested.arms] == [20, None]


@pytest.mark.parametrize("reverse", [False, True])
def test_a_run_repeated_under_another_time_limit_counts_once(reverse: bool) -> None:
    repeated = [
        records.record(limits=LimitSpec(seconds=n), status="done" if n % 2 == 0 else "timed-out")
        for n in (1, 2, 3, 4)
    ]
    (block,) = blocks(*(reversed(repeated) if reverse else repeated))
    (arm,) = block.arms
    assert [run.done for run in arm.runs] == [True]


def test_seeds_come_from_several_devices_and_a_seed_counts_once_as_it_was_first_done() -> None:
    first = records.record(seed=0, device="cuda")
    later = records.record(seed=0, started=first.started + timedelta(hours=1))
    other = records.record(seed=1)
    (block,) = blocks(later, other, first)
    (arm,) = block.arms
    assert [run.record for run in arm.runs] == [first, other]
    assert {place.device for place in block.places} == {"cpu", "cuda"}
    assert not block.repeats  # the same numbers
    unlike = later.model_copy(update={"metrics": later.metrics | {"nll": 0.7}})
    assert blocks(unlike, other, first)[0].repeats == (("lora", 0),)
    close = later.model_copy(update={"metrics": first.metrics | {"nll": _near(first)}})
    assert not blocks(close, other, first)[0].repeats


def _near(record: Record) -> float:
    assert record.metrics["nll"] is not None
    return record.metrics["nll"] * (1 + 1e-6)


@pytest.mark.parametrize(
    ("start", "end", "alone"),
    [(0.2, 2.1, True), (2.5, 2.5, True), (2.6, 1.0, False), (1.0, 2.6, False), (None, None, True)],
)
def test_seconds_count_of_runs_that_had_the_machine_to_themselves(
    start: float | None, end: float | None, alone: bool
) -> None:
    record = records.record(**loads(start, end))
    assert record.environment.threads == 2
    (block,) = cost_blocks([Run(record)])
    (arm,) = block.arms
    assert bool(arm.timed) == alone
    assert measures.mean(arm, "peak_bytes") is not None
    assert (measures.mean(arm, "tokens_per_second") is not None) == alone
    assert (measures.mean(arm, "latency.base") is not None) == alone


@pytest.mark.parametrize(("at_once", "alone"), [(None, True), (1, True), (2, False)])
def test_seconds_of_runs_that_shared_the_machine_do_not_count_and_their_bytes_do(
    at_once: int | None, alone: bool
) -> None:
    place = records.environment(runs_at_once=at_once)
    (block,) = cost_blocks([Run(records.record(environment=place))])
    (arm,) = block.arms
    assert bool(arm.timed) == alone
    assert measures.mean(arm, "peak_bytes") is not None
    assert (measures.mean(arm, "tokens_per_second") is not None) == alone


# -- which runs may be compared ----------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        {"model": "smollm2"},
        {"task": "sst2"},
        {"task_version": 2},
        {"split": "valid"},
        {"data": DataSpec(train=64)},
        {"train": {"precision": "bf16"}},
        {"train": {"steps": 7}},
        {"train": {"batch_size": 7}},
    ],
)
def test_what_cannot_be_compared_stands_in_two_blocks(other: dict[str, Any]) -> None:
    for make in (quality_blocks, cost_blocks):
        assert len(make([Run(records.record()), Run(records.record(seed=1, **other))])) == 2


@pytest.mark.parametrize(
    "other",
    [
        {"device": "cuda"},
        {"environment": records.environment(device_name="another")},
        {"environment": records.environment(torch="2.14.0")},
        {"environment": records.environment(transformers="5.21.0")},
    ],
)
def test_quality_pools_devices_and_costs_do_not(other: dict[str, Any]) -> None:
    runs = [Run(records.record()), Run(records.record(seed=1, **other))]
    (block,) = quality_blocks(runs)
    assert len(block.arms) == 1
    assert len(block.runs) == 2
    apart = cost_blocks(runs)
    assert [len(block.runs) for block in apart] == [1, 1]
    assert len({block.place for block in apart}) == 2


def test_different_seeds_alone_are_one_arm() -> None:
    (block,) = blocks(records.record(), records.record(seed=1))
    assert len(block.arms) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"method": "lora+"},
        {"method_version": 2},
        {"args": {"alpha": 48.0}},
        {"train": {"lr": 1e-5}},
        {"train": {"schedule": "cosine"}},
    ],
)
def test_different_settings_are_different_arms(other: dict[str, Any]) -> None:
    (block,) = blocks(records.record(), records.record(seed=1, **other))
    assert len(block.arms) == 2


def test_nothing_is_lost_and_the_order_does_not_depend_on_that_of_the_records() -> None:
    def shape(made: Iterable[Block]) -> list[Any]:
        return [
            [block.question, [[arm.label, [run.key for run in arm.runs]] for arm in block.arms]]
            for block in made
        ]

    found = list(records.study())
    expected = shape(blocks(*found))
    assert {run.key for block in blocks(*found) for run in block.runs} == {
        Run(record).key for record in found
    }
    shuffled = [*found]
    random.Random(0).shuffle(shuffled)
    assert shape(blocks(*shuffled)) == expected
    reviews = next(block for block in blocks(*found) if block.question.task == "reviews")
    assert list(dict.fromkeys(arm.method for arm in reviews.arms)) == [*METHOD_ORDER, "galore"]
    order = [method_order(arm.method) for arm in reviews.arms]
    assert order == sorted(order)


def by_every_run(runs: Iterable[Run]) -> list[tuple[str, str]]:
    """The label and the key of every run, in the order of the list: each run by a key of its own,
    without anything that runs share."""

    def order(run: Run) -> tuple[Any, ...]:
        spec = run.record.spec
        data = dict(spec.data).values()
        question = (spec.model, spec.pooling, spec.task, spec.task_version, spec.split, *data)
        shared = (spec.base, spec.train.precision, spec.train.steps, spec.train.batch_size)
        return (
            *map(sortable, (*question, *shared)),
            method_order(run.method),
            spec.method_version,
            [*map(sortable, run.settings.values())],
            (run.settings_key, spec.seed, run.record.run_id, run.key),
        )

    def sortable(value: Any) -> tuple[bool, float, str]:
        number = isinstance(value, int | float)
        return not number, value if number else 0, "" if number else str(value)

    ordered = grouped(sorted(runs, key=order), lambda run: Question.of(run.record.spec))
    listed: list[tuple[str, str]] = []
    for members in ordered.values():
        arms = grouped(members, lambda run: run.settings_key)
        labels_of = arm_labels(arms)
        listed += [(labels_of[key], run.key) for key, same in arms.items() for run in same]
    return listed


@pytest.mark.parametrize("seed", range(5))
def test_what_runs_share_is_worked_out_once_and_the_order_stays(seed: int) -> None:
    rng = random.Random(seed)
    changes: list[dict[str, Any]] = [
        {"args": {"alpha": rng.choice([16, 16.0, 48.0, "x", None])}},
        {"args": {"targets": rng.choice([["q", "v"], "all-linear", True])}},
        {"train": {"weight_decay": rng.choice([0.0, -0.0]), "lr": rng.choice([1e-3, 3e-4])}},
        {"train": {"steps": 7}},
        {"limits": LimitSpec(seconds=rng.randrange(1, 4))},
        {"data": DataSpec(train=100)},
        {"method_version": 2},
        {"task_version": 10},
        {"model": "a"},
        {"base": "nf4"},
        {"environment": records.environment(device_name="another")},
        {"study": StudyReference(name="s", trials=3, trial=rng.randrange(3))},
        {"status": "failed"},
    ]
    drawn = [
        Run(records.record(method=method, task=task, seed=rng.randrange(4), **rng.choice(changes)))
        for _ in range(8)
        for method in ("lora", "galore", "full")
        for task in ("b", "a")
    ]
    runs = [*{run.key: run for run in drawn}.values()]
    assert [(label, run.key) for run, label in labelled(runs).items()] == by_every_run(runs)
    of_blocks = [
        (arm.label, run.key)
        for block in quality_blocks(runs)
        for arm in block.arms
        for run in arm.runs
    ]
    assert of_blocks == [one for one in by_every_run(runs) if one in of_blocks]


def test_an_arm_of_many_runs_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ordered: list[Run] = []
    order: Callable[[Run], tuple[Any, ...]] = grouping._order
    monkeypatch.setattr(grouping, "_order", lambda run: (ordered.append(run), order(run))[1])
    few, many = ([Run(record) for record in records.many(n)] for n in (350, 700))
    more = calls(quality_blocks, many) - calls(quality_blocks, few)
    assert len(ordered) == 2 * 35
    assert more < 60 * 350


def test_every_run_has_a_label_and_a_place_in_the_list_whether_it_counts_or_not() -> None:
    trial = StudyReference(name="tuning", trials=8, trial=3)
    repeated = records.record(environment=records.environment(device_name="Another"))
    found = [*records.study(), repeated, records.record(seed=7, split="valid", study=trial)]
    labels_of = labelled(map(Run, found))
    assert {run.key for run in labels_of} == {Run(record).key for record in found}
    shuffled = [*found]
    random.Random(0).shuffle(shuffled)
    again = labelled(map(Run, shuffled))
    assert [run.key for run in labels_of] == [run.key for run in again]
    assert list(labels_of.values()) == list(again.values())
    counting = {
        run.key: arm.label for block in blocks(*found) for arm in block.arms for run in arm.runs
    }
    assert counting.items() <= {run.key: label for run, label in labels_of.items()}.items()


def test_a_failing_assertion_does_not_print_whole_records() -> None:
    run = Run(records.record())
    ((pooled,), (block,)) = quality_blocks([run]), cost_blocks([run])
    for short in map(repr, (run, *block.arms, block, pooled)):
        assert len(short) < 100
    assert repr(run) == f"Run({run.key}, lora, seed 0)"
    assert repr(block.arms) == "(Arm(lora, 1 runs),)"
    assert repr(block) == "Block(reviews, minilm, cpu: AMD EPYC, 2 threads, 1 arms)"


def test_no_records_make_no_blocks() -> None:
    assert blocks() == cost_blocks([]) == Results(()).final == ()


# -- names -------------------------------------------------------------------------------------


def test_arms_are_ordered_by_number_and_not_by_text() -> None:
    (block,) = blocks(*(records.record(args={"rank": rank}) for rank in (16, 128, 2)))
    assert [arm.label for arm in block.arms] == [
        "lora (rank=2)",
        "lora (rank=16)",
        "lora (rank=128)",
    ]


def test_a_label_holds_as_much_as_tells_arms_apart() -> None:
    plain = records.record()
    assert labels(plain, records.record(seed=1)) == {"lora"}
    assert labels(plain, records.record(args={"alpha": 48.0})) == {
        "lora (alpha=16)",
        "lora (alpha=48)",
    }
    assert labels(plain, records.record(train={"lr": 0.001})) == {
        "lora (lr=0.0003)",
        "lora (lr=0.001)",
    }
    several = {"alpha": 48.0, "targets": ["q_proj", "v_proj"]}
    assert labels(plain, records.record(args=several, train={"clip": None})) == {
        "lora (alpha=16)",
        "lora (alpha=48)",
    }
    lists = records.record(args={"targets": ["q_proj", "v_proj"]})
    assert labels(plain, lists) == {"lora (targets=all-linear)", "lora (targets=q_proj+v_proj)"}
    assert labels(plain, records.record(train={"clip": None})) == {
        "lora (clip=1)",
        "lora (clip=null)",
    }
    assert labels(plain, records.record(method_version=2)) == {
        "lora (version=1)",
        "lora (version=2)",
    }
    assert labels(plain, records.record(args={"extra": 1})) == {"lora", "lora (extra=1)"}
    assert labels(plain, records.record(args={"extra": None})) == {"lora", "lora (extra=null)"}
    mixed = [records.record(args={"alpha": alpha, "rank": r}) for alpha in (1, 2) for r in (3, 4)]
    assert len(labels(*mixed)) == 4


@pytest.mark.parametrize(
    "elsewhere",
    [{"method": "lora+"}, {"task": "sst2"}, {"model": "smollm2"}, {"train": {"steps": 3}}],
)
def test_a_label_tells_arms_of_one_method_and_block_apart(elsewhere: dict[str, Any]) -> None:
    other = records.record(args={"alpha": 48.0}, **elsewhere)
    assert all("(" not in label for label in labels(records.record(), other))


def test_close_numbers_stay_distinct() -> None:
    close = [records.record(train={"lr": lr}) for lr in (1.0001e-4, 1.0002e-4)]
    assert labels(*close) == {"lora (lr=0.00010001)", "lora (lr=0.00010002)"}


def test_labels_and_arms_are_one_to_one_and_the_same_on_every_device() -> None:
    found = list(records.study())
    elsewhere = [record.model_copy(update={"device": "cuda"}) for record in found]
    for block in cost_blocks(map(Run, [*found, *elsewhere])):
        named = [arm.label for arm in block.arms]
        assert len(set(named)) == len(named)
    by_place = itertools.groupby(
        cost_blocks(map(Run, [*found, *elsewhere[:7]])), lambda b: b.question
    )
    for _, (one, *others) in by_place:
        for other in others:
            assert {arm.label for arm in other.arms} <= {arm.label for arm in one.arms}


def test_blocks_are_named_by_what_tells_them_apart() -> None:
    few = records.record(data=DataSpec(train=64))
    made = blocks(records.record(), few, records.record(task="sst2"))
    assert differing(made[:2]) == {"data"}
    assert sorted(names(made)) == ["reviews, all data", "reviews, train=64", "sst2"]
    known = facts(made[0])
    assert known["training"] == "100 steps of 16"
    assert known["place"] == "cpu: AMD EPYC, 2 threads"
    assert facts(made[0], "zh")["split"] == "test 划分"


# -- measures ----------------------------------------------------------------------------------


def test_every_number_of_a_record_is_a_measure_and_has_its_value() -> None:
    peaks = CudaMemory(
        allocated_bytes=CudaPeaks(train=1, eval=2), reserved_bytes=CudaPeaks(train=3, eval=4)
    )
    record = records.controlled(records.record(cuda=peaks))
    run, footprint, timing = Run(record), record.footprint, record.timing
    assert footprint is not None
    assert timing is not None
    assert timing.latency_seconds is not None
    assert timing.step_seconds is not None
    for name in set(Footprint.model_fields) - {"peak_parts"}:
        assert measures.measure(run, name) == getattr(footprint, name)
    for part in Parts.model_fields:
        assert measures.measure(run, f"peak.{part}") == getattr(footprint.peak_parts, part)
    for name in set(Timing.model_fields) - {"step_seconds", "latency_seconds"}:
        assert measures.measure(run, name) == getattr(timing, name)
    assert [measures.measure(run, name) for name in measures.CUDA_PEAKS] == [1, 2, 3, 4]
    spreads: dict[str, Spread | None] = {
        "step_seconds": timing.step_seconds,
        "latency.base": timing.latency_seconds.base,
        "latency.adapted": timing.latency_seconds.adapted,
        "latency.merged": timing.latency_seconds.merged,
        "latency.control": timing.latency_seconds.control,
    }
    for name, spread in spreads.items():
        assert spread is not None
        assert measures.measure(run, name) == spread.median
        assert measures.measure(run, f"{name}.iqr") == spread.iqr
        assert measures.measure(run, f"{name}.n") == spread.n
    assert set(spreads) == set(measures.SPREADS)
    lacking = {name for name in measures.COUNTED if measures.measure(run, name) is None}
    assert lacking == {"micro_batch"}  # nothing was found by trying here


def test_what_a_run_lacks_is_none_each_on_its_own() -> None:
    bare = Run(records.record(status="failed"))
    assert {measures.measure(bare, name) for name in measures.MEASURES} == {None}
    record = records.record()
    assert record.timing is not None
    assert record.timing.latency_seconds is not None
    latency = record.timing.latency_seconds.model_copy(update={"merged": None})
    timing = record.timing.model_copy(update={"latency_seconds": latency, "step_seconds": None})
    run = Run(record.model_copy(update={"timing": timing}))
    assert measures.measure(run, "latency.merged") is None
    assert measures.measure(run, "step_seconds") is None
    assert measures.measure(run, "latency.adapted") is not None
    assert measures.measure(run, "peak_bytes") is not None


def test_means_over_seeds_are_those_of_the_records() -> None:
    found = tuple(records.study())
    results = Results(found)
    for block in results.final:
        estimates = results.estimates(block, "metric")
        for arm in block.arms:
            members = [
                record
                for record in found
                if (record.spec.task, record.spec.method) == (block.question.task, arm.method)
                and record.spec.args == arm.spec.args
            ]
            assert {run.record.run_id for run in arm.runs} == {r.run_id for r in members}
            values = [record.metrics["accuracy"] for record in members if record.status == "done"]
            assert len(arm.done) == len(values)
            if not values:
                assert arm not in estimates
                continue
            numbers = [value for value in values if value is not None]
            assert estimates[arm].mean == pytest.approx(statistics.mean(numbers), rel=1e-12)
            assert estimates[arm].std == pytest.approx(statistics.stdev(numbers), rel=1e-9)
            peaks = [r.footprint.peak_bytes for r in members if r.footprint]
            assert measures.mean(arm, "peak_bytes") == pytest.approx(statistics.mean(peaks))


def test_a_seed_without_a_value_leaves_no_mean_of_the_others() -> None:
    lacking = records.record(seed=1, metrics={"accuracy": None, "nll": 1.0})
    results = Results((records.record(), lacking))
    (block,) = results.final
    (arm,) = block.arms
    assert len(arm.done) == 2
    assert results.estimates(block, "metric")[arm].mean is None
    assert results.estimates(block, "nll")[arm].mean is not None
