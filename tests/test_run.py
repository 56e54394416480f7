"""Whole runs on small models: equal bits from equal specs, what a seed changes, what a record says,
and every way to end."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import accuracy_score

from peftbench.errors import InputError
from peftbench.methods import METHODS
from peftbench.record import Record
from peftbench.spec import DataSpec, LimitSpec, RunSpec, TrainSpec
from peftbench.tasks import TASKS
from peftbench.training import loop as train
from peftbench.training import run as run_module
from peftbench.training.run import Outcome, prepare, run

SMALL = DataSpec(train=40, valid=12, test=20, generate=2, max_length=64, max_new_tokens=6)


def spec(
    model: str, method: str = "lora", task: str = "reviews", seed: int = 0, **changes: object
) -> RunSpec:
    settings = {"steps": 4, "batch_size": 4, "lr": METHODS[method].lr, "eval_every": 2} | changes
    return RunSpec(
        model=model,
        task=task,
        task_version=TASKS[task].version,
        method=method,
        method_version=METHODS[method].version,
        args=METHODS[method].complete(
            {"rank": 4} if "rank" in METHODS[method].model_fields else {}
        ),
        train=TrainSpec(**settings),  # type: ignore[arg-type]
        data=SMALL,
        seed=seed,
        split="test",
        limits=LimitSpec(),
    )


def done(outcome: Outcome) -> tuple[Record, pd.DataFrame]:
    assert outcome.record.status == "done", outcome.record.error
    assert outcome.predictions is not None
    return outcome.record, outcome.predictions


@pytest.fixture(scope="module")
def models(small_encoder: str, small_decoder: str) -> dict[str, str]:
    return {
        task: small_decoder if kind.kind == "generation" else small_encoder
        for task, kind in TASKS.items()
    }


@pytest.mark.parametrize("method", METHODS)
def test_equal_specs_give_equal_bits_and_another_seed_other_ones(
    method: str, small_encoder: str
) -> None:
    first, second, other = (done(run(spec(small_encoder, method, seed=seed))) for seed in (0, 0, 1))
    assert first[0].metrics == second[0].metrics
    assert first[0].curve == second[0].curve
    pd.testing.assert_frame_equal(first[1], second[1], check_exact=True)
    assert first[0].curve != other[0].curve
    assert first[0].metrics["nll"] != other[0].metrics["nll"]
    assert first[0].data == other[0].data  # the examples are the same, only their order differs


@pytest.mark.parametrize("method", METHODS)
def test_what_a_record_says_of_parameters_and_bytes(method: str, small_encoder: str) -> None:
    record, _ = done(run(spec(small_encoder, method)))
    cost = record.cost
    assert cost is not None
    linears = (
        [(32, 32)] * 4 * 2 + [(32, 64), (64, 32)] * 2 + [(32, 32)]
    )  # (in, out): attention, MLP, pooler
    trunk = cost.total_params - cost.head_params
    A, B, W = (
        sum(4 * i for i, _ in linears),
        sum(4 * o for _, o in linears),
        sum(i * o for i, o in linears),
    )
    trained = {
        "full": trunk,
        "frozen": 0,
        "lora": A + B,
        "lora+": A + B,
        "lora-fa": B,
        "delta-lora": A + B,
    }
    trained["vera"] = sum(o + 4 for _, o in linears)
    assert cost.trained_params == trained[method]
    assert cost.updatable_params == trained[method] + (W if method == "delta-lora" else 0)
    assert cost.head_params == 32 * 2 + 2
    parts = cost.peak_parts
    assert cost.peak_bytes == sum(parts.model_dump().values())
    state = (
        2 * 4 * (cost.trained_params + cost.head_params)
    )  # two float32 moments each, and a step count per tensor
    assert state < cost.optimizer_bytes < state + 1000
    assert parts.optimizer == cost.optimizer_bytes
    assert 0 <= parts.gradients <= 4 * (cost.trained_params + cost.head_params)
    assert parts.weights >= 4 * cost.total_params
    assert cost.step_seconds is not None
    assert cost.step_seconds.n == 2
    assert 0 < cost.step_seconds.median * 2 < cost.train_seconds < record.seconds


def test_full_fine_tuning_on_test_alone_leaves_spectra(small_encoder: str) -> None:
    full = spec(small_encoder, "full")
    metrics = {
        what: done(run(each))[0].metrics
        for what, each in {
            "test": full,
            "valid": full.model_copy(update={"split": "valid"}),
            "lora": spec(small_encoder, "lora"),
        }.items()
    }
    assert {what for what, found in metrics.items() if "energy8.weight" in found} == {"test"}
    for part in ("weight", "change"):
        shares = [metrics["test"][f"energy{k}.{part}"] for k in (1, 8, 32)]
        assert all(
            share is not None and 0 < share <= 1 + 1e-12 for share in shares
        )  # a change of zero would have none
        assert shares == sorted(shares)
        assert shares[-1] == pytest.approx(1)  # of 32 directions, all


@pytest.mark.parametrize("task", TASKS)
def test_every_task_runs_and_its_metrics_can_be_recomputed(
    task: str, models: dict[str, str]
) -> None:
    record, predictions = done(run(spec(models[task], task=task)))
    assert record.primary in record.metrics
    nll = record.metrics["nll"]
    assert nll is not None
    assert nll == pytest.approx(
        math.fsum(predictions["nll"]) / predictions["count"].sum(), rel=1e-12
    )
    assert [point.step for point in record.curve] == [1, 2, 3, 4]
    assert [point.valid_loss is not None for point in record.curve] == [False, True, False, False]
    assert record.data is not None
    assert record.data.counts["train"] == 40
    if TASKS[task].kind == "classification":
        assert record.metrics["accuracy"] == accuracy_score(
            predictions["target"], predictions["answer"]
        )
    elif TASKS[task].kind == "regression":
        correlation = np.corrcoef(predictions["target"], predictions["answer"])[0, 1]
        assert record.metrics[record.primary] == pytest.approx(correlation, abs=1e-6)
    else:
        assert predictions["score"].notna().sum() == 2
        assert record.metrics[record.primary] == predictions["score"].mean()
        assert record.environment.sandbox is not None


def test_the_frozen_language_model_takes_no_step(small_decoder: str) -> None:
    record, _ = done(run(spec(small_decoder, "frozen", "gsm_symbolic")))
    assert record.curve == ()
    assert record.cost is not None
    assert (record.cost.trained_params, record.cost.optimizer_bytes, record.cost.train_seconds) == (
        0,
        0,
        0,
    )
    assert (
        record.cost.step_seconds is record.cost.tokens_per_second is record.cost.utilization is None
    )


def test_all_arms_see_the_same_batches(small_encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[list[int]]] = {}
    original = train.plan
    for method in METHODS:

        def recorded(*args: object, name: str = method) -> list[list[int]]:
            seen[name] = original(*args)  # type: ignore[arg-type]
            return seen[name]

        monkeypatch.setattr(train, "plan", recorded)
        done(run(spec(small_encoder, method)))
    assert len(seen) == len(METHODS)
    assert all(batches == seen["full"] for batches in seen.values())


def test_evaluation_changes_nothing_that_is_trained(small_encoder: str) -> None:
    often, never = (done(run(spec(small_encoder, eval_every=n)))[0] for n in (1, None))
    assert [point.train_loss for point in often.curve] == [
        point.train_loss for point in never.curve
    ]
    assert often.metrics == never.metrics


def test_divergence_is_a_record(small_encoder: str) -> None:
    record = run(spec(small_encoder, lr=1e30, warmup=0.0, clip=None)).record
    assert record.status == "diverged"
    assert record.error is not None
    assert "step" in record.error
    assert record.metrics == {}
    assert record.cost is None


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "out-of-memory", "CUDA out of memory"),
        (MemoryError(), "out-of-memory", "MemoryError"),
        (ValueError("first line\nlast line"), "failed", "ValueError: last line"),
        (InputError("no such column"), "failed", "no such column"),
    ],
)
def test_whatever_is_raised_becomes_a_status(
    error: Exception,
    status: str,
    words: str,
    small_encoder: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(run_module, "_run", fail)
    record = run(spec(small_encoder)).record
    assert (record.status, record.error) == (
        status,
        words if words != "CUDA out of memory" else "OutOfMemoryError: CUDA out of memory",
    )


def test_a_cpu_without_memory_is_out_of_memory(
    small_encoder: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run_module, "_run", lambda *_: torch.empty(2**60))
    assert run(spec(small_encoder)).record.status == "out-of-memory"


def test_what_cannot_work_is_found_before_anything_runs(small_encoder: str) -> None:
    good = spec(small_encoder)
    prepare([good])
    with pytest.raises(InputError, match="'no_such' matches no linear layer"):
        prepare([good, good.model_copy(update={"args": good.args | {"targets": ["no_such"]}})])
    with pytest.raises(InputError, match="no causal language model"):
        prepare([good.model_copy(update={"task": "gsm_symbolic"})])
    with pytest.raises(InputError, match="nowhere"):
        prepare([good.model_copy(update={"model": "nowhere/at-all"})])


def test_adapters_are_saved_where_asked(small_encoder: str, tmp_path: Path) -> None:
    record, _ = done(run(spec(small_encoder), tmp_path))
    assert record.cost is not None
    assert (
        tmp_path / record.run_id / "adapter_model.safetensors"
    ).stat().st_size == record.cost.adapter_file_bytes
