"""Whole runs on small models: equal bits from equal specs, what a seed changes, what a record says,
and every way to end."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from sklearn.metrics import accuracy_score

from peftbench.errors import InputError
from peftbench.experiment import ArmEntry, Experiment, TaskEntry, expand
from peftbench.methods import METHODS, OURS
from peftbench.record import Record
from peftbench.spec import DataSpec, LimitSpec, RunSpec, TrainSpec
from peftbench.tasks import TASKS
from peftbench.training import environment, evaluation, fine_tuning
from peftbench.training import run as run_module
from peftbench.training.environment import auto_precision
from peftbench.training.evaluation import evaluate
from peftbench.training.fine_tuning import check_specs, set_up
from peftbench.training.footprint import footprint
from peftbench.training.loop import train
from peftbench.training.run import RunResult, never, run, truncated_scores
from peftbench.training.singular_values import spectra, trained_weights

CPU = torch.device("cpu")
SMALL = DataSpec(train=40, valid=12, test=20, generate=2, max_length=64, max_new_tokens=6)


def spec(
    model: str, method: str = "lora", task: str = "reviews", seed: int = 0, **changes: Any
) -> RunSpec:
    settings: dict[str, Any] = {
        "steps": 4,
        "batch_size": 4,
        "lr": METHODS[method].lr,
        "eval_every": 2,
        "precision": "float32",
    }
    return RunSpec(
        model=model,
        task=task,
        task_version=TASKS[task].version,
        method=method,
        method_version=METHODS[method].version,
        args=METHODS[method].complete(
            {"rank": 4} if "rank" in METHODS[method].model_fields else {}
        ),
        train=TrainSpec(**settings | changes),
        data=SMALL,
        seed=seed,
        split="test",
        limits=LimitSpec(),
    )


def done(result: RunResult) -> tuple[Record, pd.DataFrame]:
    assert result.record.status == "done", result.record.error
    assert result.predictions is not None
    return result.record, result.predictions


@pytest.fixture(scope="module")
def models(small_encoder: str, small_decoder: str) -> dict[str, str]:
    return {
        task: small_decoder if kind.kind == "generation" else small_encoder
        for task, kind in TASKS.items()
    }


@pytest.mark.parametrize("method", OURS)
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


@pytest.mark.parametrize("method", OURS)
def test_what_a_record_says_of_parameters_and_bytes(method: str, small_encoder: str) -> None:
    record, _ = done(run(spec(small_encoder, method)))
    size, timing = record.footprint, record.timing
    assert size is not None
    assert timing is not None
    linears = (
        [(32, 32)] * 4 * 2 + [(32, 64), (64, 32)] * 2 + [(32, 32)]
    )  # (in, out): attention, MLP, pooler
    trunk = size.total_params - size.head_params
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
    assert size.trained_params == trained[method]
    assert size.updatable_params == trained[method] + (W if method == "delta-lora" else 0)
    assert size.head_params == 32 * 2 + 2
    parts = size.peak_parts
    assert size.peak_bytes == sum(parts.model_dump().values())
    state = (
        2 * 4 * (size.trained_params + size.head_params)
    )  # two float32 moments each, and a step count per tensor
    assert state < size.optimizer_bytes < state + 1000
    assert parts.optimizer == size.optimizer_bytes
    assert 0 <= parts.gradients <= 4 * (size.trained_params + size.head_params)
    assert parts.weights >= 4 * size.total_params
    assert timing.step_seconds is not None
    assert timing.train_seconds is not None
    assert timing.step_seconds.n == 2
    assert 0 < timing.step_seconds.median * 2 < timing.train_seconds < record.seconds
    assert timing.utilization is not None
    assert timing.latency_seconds is not None
    assert timing.generated_tokens_per_second is record.cuda is None


def test_spectra_scores_of_eight_directions_and_latency_are_left_by_runs_on_test_alone(
    small_encoder: str,
) -> None:
    full = spec(small_encoder, "full")
    specs = {
        "test": full,
        "valid": full.model_copy(update={"split": "valid"}),
        "lora": spec(small_encoder, "lora"),
    }
    records = {what: done(run(one))[0] for what, one in specs.items()}
    metrics = {what: record.metrics for what, record in records.items()}
    times = {what: record.timing for what, record in records.items()}
    timed = {what for what, timing in times.items() if timing and timing.latency_seconds}
    assert timed == {"test", "lora"}
    for name in ("energy8.weight", "nll.rank8", "accuracy.rank8"):
        assert {what for what, values in metrics.items() if name in values} == {"test"}
    assert metrics["test"]["accuracy.rank8"] is not None
    assert metrics["test"]["nll.rank8"] != metrics["test"]["nll"]
    for part in ("weight", "change"):
        values = [metrics["test"][f"energy{k}.{part}"] for k in (1, 8, 32)]
        shares = [value for value in values if value is not None]
        assert len(shares) == 3  # a change of zero would have none
        assert all(0 < share <= 1 + 1e-12 for share in shares)
        assert shares == sorted(shares)
        assert shares[-1] == pytest.approx(1)  # of 32 directions, all


@pytest.mark.parametrize("rank", [3, 8, 20])
def test_a_change_of_eight_directions_scores_as_it_is_and_weights_stay(
    rank: int, small_encoder: str
) -> None:
    tuning = set_up(spec(small_encoder, "full"), CPU)
    net = tuning.model.net
    before, rng = trained_weights(net), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name in before:
            weight = net.get_parameter(f"{name}.weight")
            parts = [torch.randn(size, rank, generator=rng) for size in weight.shape]
            weight += 0.2 * parts[0] @ parts[1].t() / rank**0.5
        # what is no linear layer of the trunk stays as it was trained
        for parameter in tuning.model.head_parameters():
            parameter += torch.randn(parameter.shape, generator=rng)
    modules = dict(net.named_modules())
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    nll = evaluate(tuning).metrics["nll"]
    scores = truncated_scores(before, tuning)
    assert nll is not None
    assert (scores["nll.rank8"] == pytest.approx(nll, rel=1e-5)) == (rank <= 8)
    assert dict(net.named_modules()) == modules
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    assert truncated_scores(before, tuning) == scores


def test_eight_directions_of_a_language_model_are_scored_without_an_answer(
    small_decoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuning = set_up(spec(small_decoder, "full", "gsm_symbolic"), CPU)
    monkeypatch.delattr(evaluation, "generate")
    scores = truncated_scores(trained_weights(tuning.model.net), tuning)
    assert scores.keys() == {"nll.rank8"}
    assert scores["nll.rank8"] is not None


@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_the_change_of_the_weights_holds_exactly_the_steps_of_the_run(
    schedule: str, small_encoder: str
) -> None:
    full = spec(small_encoder, "full", schedule=schedule)
    tuning = set_up(full, CPU)
    before = trained_weights(tuning.model.net)
    assert len(before) > 2
    train(tuning, never)
    expected = spectra(before, tuning.model.net)
    metrics = done(run(full))[0].metrics
    assert expected.keys() <= metrics.keys()
    assert {name: metrics[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("method", "task"), [("lora", "reviews"), ("delta-lora", "gsm_symbolic"), ("full", "reviews")]
)
def test_what_a_run_costs_changes_nothing_of_what_it_finds(
    method: str, task: str, models: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither when it is measured at the end, nor when the footprint is taken before everything."""
    wanted = spec(models[task], method, task)
    record, predictions = done(run(wanted))

    tuning = set_up(wanted, CPU)
    footprint(tuning)
    log = train(tuning, never)
    early = footprint(tuning)
    evaluation = evaluate(tuning)
    assert early == record.footprint
    assert tuple(log.curve) == record.curve
    assert evaluation.metrics == {name: record.metrics[name] for name in evaluation.metrics}
    pd.testing.assert_frame_equal(evaluation.predictions, predictions, check_exact=True)

    for stage in ("footprint", "timing", "dtypes"):
        monkeypatch.setattr(run_module, stage, lambda *_, **__: None)
    without, same_predictions = done(run(wanted))
    assert without.footprint is without.timing is None
    assert (without.metrics, without.curve) == (record.metrics, record.curve)
    pd.testing.assert_frame_equal(same_predictions, predictions, check_exact=True)


@pytest.mark.parametrize(
    ("method", "task"), [("lora", "reviews"), ("full", "reviews"), ("frozen", "gsm_symbolic")]
)
@pytest.mark.parametrize(
    ("precision", "frozen", "trained"),
    [
        ("float32", "float32", "float32"),
        ("bf16-mixed", "bfloat16", "float32"),
        ("bf16", "bfloat16", "bfloat16"),
    ],
)
def test_a_record_says_every_dtype(
    precision: str, frozen: str, trained: str, method: str, task: str, models: dict[str, str]
) -> None:
    record, _ = done(run(spec(models[task], method, task, precision=precision)))
    used = record.dtypes
    assert used is not None
    assert used.logits == (frozen,)  # products are made in it
    assert used.trained == used.optimizer == (() if method == "frozen" else (trained,))
    # of the language model the rotary embedding's frequencies stay float32
    expected = {"lora": {frozen}, "full": set(), "frozen": {frozen, "float32"}}[method]
    assert set(used.weights) == expected
    assert math.isfinite(record.metrics["nll"] or math.nan)


def test_what_auto_comes_to_is_part_of_the_run(small_encoder: str) -> None:
    experiment = Experiment(
        question="?",
        model=small_encoder,
        task=(TaskEntry(name="reviews", data=SMALL.model_dump()),),
        arm=(ArmEntry(method="lora", args={"rank": 4}),),
        train={"steps": 2, "batch_size": 4},
    )
    narrow, wide = (
        expand(experiment, METHODS, TASKS, auto_precision=precision)[0]
        for precision in ("bf16-mixed", "float32")
    )
    assert narrow.run_id != wide.run_id
    for wanted in (narrow, wide):
        record, _ = done(run(wanted))
        assert record.dtypes is not None
        frozen = {"bf16-mixed": "bfloat16", "float32": "float32"}[wanted.train.precision]
        assert record.dtypes.weights == (frozen,)


@pytest.mark.parametrize(
    ("device", "supported", "precision"),
    [("cpu", True, "float32"), ("cuda", True, "bf16-mixed"), ("cuda", False, "float32")],
)
def test_auto_is_mixed_on_cuda_that_has_bfloat16(
    device: str, supported: bool, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: supported)
    assert auto_precision(torch.device(device)) == precision


def test_a_record_has_the_load_at_both_ends(
    small_encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = iter([(0.5, 0.0, 0.0), (1.5, 0.0, 0.0)])
    monkeypatch.setattr(environment.os, "getloadavg", lambda: next(loads))
    place = run(spec(small_encoder)).record.environment
    assert (place.load_at_start, place.load_at_end) == (0.5, 1.5)


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
        assert len(predictions["score"].dropna()) == 2
        assert record.metrics[record.primary] == predictions["score"].mean()
    assert (record.environment.sandbox is not None) == TASKS[task].runs_code


def test_the_frozen_language_model_takes_no_step(small_decoder: str) -> None:
    record, _ = done(run(spec(small_decoder, "frozen", "gsm_symbolic")))
    size, timing = record.footprint, record.timing
    assert record.curve == ()
    assert size is not None
    assert timing is not None
    assert size.trained_params == size.optimizer_bytes == 0
    assert size.flops_per_step is timing.step_seconds is timing.train_seconds is None
    assert timing.tokens_per_second is timing.utilization is None
    assert timing.latency_seconds is not None
    assert timing.latency_seconds.merged is None
    assert timing.eval_seconds > 0


def test_all_arms_see_the_same_batches(small_encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[list[int]]] = {}
    original = fine_tuning.plan_batches
    for method in OURS:

        def recorded(*args: Any, name: str = method) -> list[list[int]]:
            seen[name] = original(*args)
            return seen[name]

        monkeypatch.setattr(fine_tuning, "plan_batches", recorded)
        done(run(spec(small_encoder, method)))
    assert len(seen) == len(OURS)
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
    assert record.footprint is record.timing is record.dtypes is None
    assert record.environment.load_at_end is not None


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

    monkeypatch.setattr(run_module, "set_up", fail)
    record = run(spec(small_encoder)).record
    assert (record.status, record.error) == (
        status,
        words if words != "CUDA out of memory" else "OutOfMemoryError: CUDA out of memory",
    )


def test_a_cpu_without_memory_is_out_of_memory(
    small_encoder: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run_module, "train", lambda *_: torch.empty(2**60))
    assert run(spec(small_encoder)).record.status == "out-of-memory"


def test_what_cannot_work_is_found_before_anything_runs(small_encoder: str) -> None:
    good = spec(small_encoder)
    check_specs([good])
    with pytest.raises(InputError, match="'no_such' matches no linear layer"):
        check_specs([good, good.model_copy(update={"args": good.args | {"targets": ["no_such"]}})])
    with pytest.raises(InputError, match="no causal language model"):
        check_specs([good.model_copy(update={"task": "gsm_symbolic"})])
    with pytest.raises(InputError, match="nowhere"):
        check_specs([good.model_copy(update={"model": "nowhere/at-all"})])


def test_adapters_are_saved_where_asked(small_encoder: str, tmp_path: Path) -> None:
    record, _ = done(run(spec(small_encoder), tmp_path))
    assert record.footprint is not None
    file = tmp_path / record.run_id / "adapter_model.safetensors"
    assert file.stat().st_size == record.footprint.adapter_file_bytes


def test_a_method_without_other_forms_and_files_runs(
    small_encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "made-up", tiny.BiasShift)
    record, _ = done(run(spec(small_encoder, "made-up"), tmp_path))
    assert record.footprint is not None
    assert record.timing is not None
    assert record.timing.latency_seconds is not None
    assert record.footprint.adapter_file_bytes is None
    assert record.timing.latency_seconds.base is record.timing.latency_seconds.merged is None
    assert not list(tmp_path.iterdir())


def test_a_method_that_trains_weights_must_say_so(
    small_encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In mixed precision they are loaded in bfloat16 otherwise."""
    monkeypatch.setitem(METHODS, "made-up", tiny.BiasShift)
    monkeypatch.setattr(tiny.BiasShift, "trains_weights", False)
    record = run(spec(small_encoder, "made-up")).record
    assert record.status == "failed"
    assert "BiasShift trains weights of the model: it must say" in (record.error or "")
