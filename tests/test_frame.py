"""Records as a table: nothing lost, nothing mixed, and every arm told apart."""

import random
import statistics

import pandas as pd
import pytest
import records

from peftbench.analysis.frame import (
    ARM,
    BLOCK,
    METHODS,
    TRAIN,
    arms,
    distinct,
    frame,
    order,
    settled,
)
from peftbench.record import Predictions, Record
from peftbench.spec import DataSpec, LimitSpec, StudyReference


def labels(*found: Record) -> set[str]:
    return set(frame(found)["label"])


def test_one_row_per_run_with_its_own_values() -> None:
    found = {record.run_id: record for record in records.study()}
    table = frame(found.values())
    assert len(table) == len(found)
    for _, row in table.iterrows():
        record = found[row["run_id"]]
        assert (row["seed"], row["task"], row["status"]) == (
            record.spec.seed,
            record.spec.task,
            record.status,
        )
        assert row["stack"] == "torch 2.13.0, transformers 5.20.1"
        assert row["train.lr"] == record.spec.train.lr
        if record.cost is None:
            assert pd.isna(row["metric"])
            assert pd.isna(row["peak_bytes"])
            assert row["error"] == record.error
            continue
        assert row["metric"] == row["metric.accuracy"] == record.metrics["accuracy"]
        assert row["nll"] == record.metrics["nll"]
        assert pd.isna(row["metric.mcc"])
        assert row["peak_bytes"] == record.cost.peak_bytes
        assert row["peak.activations"] == record.cost.peak_parts.activations
        assert row["latency.adapted"] == record.cost.latency_seconds.adapted.median
        assert row["latency.base.n"] == record.cost.latency_seconds.base.n
        if record.cost.step_seconds is None:
            assert pd.isna(row["step_seconds"])
        else:
            assert row["step_seconds.iqr"] == record.cost.step_seconds.iqr


def test_a_search_s_trials_are_told_from_runs_with_what_it_found() -> None:
    tuned, trial = (
        StudyReference(name="glue", trials=20),
        StudyReference(name="glue", trials=20, trial=0),
    )
    made = Predictions(rows=7, sha256="")
    found = [
        records.record(study=tuned, predictions=made),
        records.record(seed=1, study=trial, status="pruned"),
        records.record(method="vera"),
    ]
    table = frame(found)
    columns = (
        table[["study", "trials", "trial", "predictions"]]
        .astype(object)
        .where(table[["study", "trials", "trial", "predictions"]].notna(), None)
    )
    assert columns.values.tolist() == [
        ["glue", 20, None, 7],
        ["glue", 20, 0, None],
        [None, None, None, None],
    ]
    kept, trials = settled(table)
    assert kept["method"].tolist() == ["lora", "vera"]
    assert trials["seed"].tolist() == [1]
    assert arms(kept)["trials"].fillna(-1).tolist() == [20, -1]
    assert all(part.empty for part in settled(frame([])))


def test_every_number_of_the_cost_has_a_column() -> None:
    cost = records.record().cost
    assert cost is not None
    names = {
        name.removesuffix("_seconds") if name == "latency_seconds" else name
        for name in type(cost).model_fields
    }
    columns = {name.partition(".")[0] for name in frame([]).columns}
    assert names - {"peak_parts"} <= columns
    assert "peak" in columns


def test_an_empty_frame_has_the_columns() -> None:
    assert set(frame([]).columns) <= set(frame([records.record()]).columns)
    assert {*ARM, *TRAIN, "metric", "nll", "peak_bytes"} <= set(frame([]).columns)
    assert arms(frame([])).empty


def test_the_order_does_not_depend_on_the_order_of_the_records() -> None:
    found = list(records.study())
    expected = frame(found)
    random.Random(0).shuffle(found)
    pd.testing.assert_frame_equal(frame(found), expected)
    within = expected[expected["task"] == "reviews"]
    assert list(dict.fromkeys(within["method"])) == [*METHODS, "galore"]
    assert [order(method) for method in within["method"]] == sorted(
        order(method) for method in within["method"]
    )


def test_arms_are_ordered_by_number_and_not_by_text() -> None:
    table = frame(records.record(args={"rank": rank}) for rank in (16, 128, 2))
    assert table["label"].tolist() == ["lora (rank=2)", "lora (rank=16)", "lora (rank=128)"]


def test_a_label_holds_exactly_what_differs() -> None:
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
    assert labels(
        plain,
        records.record(args={"alpha": 48.0, "targets": ["q_proj", "v_proj"]}, train={"clip": None}),
    ) == {
        "lora (alpha=16, targets=all-linear, clip=1)",
        "lora (alpha=48, targets=q_proj+v_proj, clip=null)",
    }
    assert labels(plain, records.record(method_version=2)) == {
        "lora (version=1)",
        "lora (version=2)",
    }
    assert labels(plain, records.record(args={"extra": 1})) == {"lora", "lora (extra=1)"}
    assert labels(plain, records.record(args={"extra": None})) == {"lora", "lora (extra=null)"}


@pytest.mark.parametrize(
    "elsewhere", [{"method": "lora+"}, {"task": "sst2"}, {"model": "smollm2"}, {"split": "valid"}]
)
def test_a_label_tells_arms_of_one_method_model_task_and_split_apart(
    elsewhere: dict[str, str],
) -> None:
    assert all(
        "(" not in label
        for label in labels(records.record(), records.record(args={"alpha": 48.0}, **elsewhere))
    )


def test_close_numbers_stay_distinct() -> None:
    assert labels(
        records.record(train={"lr": 1.0001e-4}), records.record(train={"lr": 1.0002e-4})
    ) == {
        "lora (lr=0.00010001)",
        "lora (lr=0.00010002)",
    }


def test_labels_and_arms_are_one_to_one() -> None:
    table = frame(records.study())
    pairs = table[[*BLOCK, "arm", "label"]].drop_duplicates()
    assert not pairs.duplicated([*BLOCK, "label"]).any()
    assert not pairs.duplicated(ARM).any()


def test_means_over_seeds_are_those_of_the_records() -> None:
    found = list(records.study())
    table = frame(found)
    arm = dict(zip(table["run_id"], table["arm"], strict=True))
    for _, row in arms(table).iterrows():
        members = [
            record
            for record in found
            if record.spec.task == row["task"] and arm[record.run_id] == row["arm"]
        ]
        values = [record.metrics["accuracy"] for record in members if record.status == "done"]
        assert (row["runs"], row["seeds"]) == (len(members), len(values))
        if values:
            assert row["metric"] == pytest.approx(statistics.mean(values), rel=1e-12)
            assert row["metric.std"] == pytest.approx(statistics.stdev(values), rel=1e-9)
        else:
            assert pd.isna(row["metric"])


def test_a_seed_without_a_value_leaves_no_mean_of_the_others() -> None:
    (row,) = arms(
        frame([records.record(), records.record(seed=1, metrics={"accuracy": None, "nll": 1.0})])
    ).to_dict("records")
    assert row["seeds"] == 2
    assert pd.isna(row["metric"])
    assert row["nll"] == row["nll"]


@pytest.mark.parametrize("reverse", [False, True])
def test_a_run_repeated_under_another_time_limit_counts_once(reverse: bool) -> None:
    late = [
        records.record(limits=LimitSpec(seconds=1), status="timed-out"),
        records.record(limits=LimitSpec(seconds=2)),
    ]
    late += [
        records.record(limits=LimitSpec(seconds=3), status="timed-out"),
        records.record(limits=LimitSpec(seconds=4)),
    ]
    table = frame(reversed(late) if reverse else late)
    assert distinct(table)["status"].tolist() == ["done"]
    assert arms(table)[["runs", "seeds"]].values.tolist() == [[1, 1]]


@pytest.mark.parametrize(
    "other",
    [
        {"device": "cuda"},
        {"environment": records.environment(device_name="another")},
        {"environment": records.environment(torch="2.14.0")},
        {"environment": records.environment(transformers="5.21.0")},
        {"model": "smollm2"},
        {"task": "sst2"},
        {"task_version": 2},
        {"split": "valid"},
        {"data": DataSpec(train=64)},
    ],
)
def test_what_cannot_be_compared_is_never_averaged(other: dict[str, object]) -> None:
    assert len(arms(frame([records.record(), records.record(seed=1, **other)]))) == 2


def test_different_seeds_alone_are_averaged() -> None:
    assert len(arms(frame([records.record(), records.record(seed=1)]))) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"method": "lora+"},
        {"method_version": 2},
        {"args": {"alpha": 48.0}},
        {"train": {"steps": 7}},
    ],
)
def test_different_arms_are_never_averaged(other: dict[str, object]) -> None:
    assert len(arms(frame([records.record(), records.record(seed=1, **other)]))) == 2
