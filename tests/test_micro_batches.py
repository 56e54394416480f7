"""Micro-batches change bytes and seconds, never what is learned."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from stepping import Arm, changed, losses, steps, tuning_of, wanted
from test_footprint import assert_equal, whole_state
from test_methods import ARMS, DISTINCT, _name
from test_run import CPU, done

from peftbench.methods import METHODS
from peftbench.spec import RunSpec
from peftbench.training import run as run_module
from peftbench.training.base import AbstractModel, Batch, BatchResult
from peftbench.training.fine_tuning import FineTuning, set_up
from peftbench.training.footprint import footprint, unchanged
from peftbench.training.loop import EndedError, InvariantError, train
from peftbench.training.micro_batches import fitted
from peftbench.training.run import never, run


def _cases() -> Iterator[Any]:
    """Every method on the encoder; on the decoder, whose vocabulary is large, those with layers
    of their own, and when not slow LoRA alone."""
    for arm in ARMS:
        yield pytest.param("reviews", arm, id=f"reviews-{_name(arm)}")
        if arm[0] in DISTINCT:
            marks = [] if arm[0] == "lora" else [pytest.mark.slow]
            yield pytest.param("gsm_symbolic", arm, id=f"gsm_symbolic-{_name(arm)}", marks=marks)


cases = pytest.mark.parametrize(("task", "arm"), [*_cases()])
kinds = pytest.mark.parametrize("task", ["reviews", "gsm_symbolic"])


@pytest.fixture
def models(small_encoder: str, small_decoder: str) -> dict[str, str]:
    return {"reviews": small_encoder, "gsm_symbolic": small_decoder}


@cases
def test_losses_and_weights_are_those_of_the_whole_batch(
    task: str, arm: Arm, models: dict[str, str]
) -> None:
    """A mean of the micro-batches' means is not: answers have unlike lengths, and the last
    micro-batch is short. Nor is clipping, an update or Delta-LoRA's start for each of them."""
    tuning = tuning_of(models[task], task, arm)
    log, weights = steps(tuning, 20)
    ours, learned = steps(tuning, 20, micro_batch=3)
    torch.testing.assert_close(losses(ours), losses(log), rtol=1e-6, atol=1e-6)
    # AdamW's step is the learning rate however small the gradient, its rounding included
    near = max(1e-6, 1e-3 * tuning.spec.train.lr)
    torch.testing.assert_close(learned, weights, rtol=1e-6, atol=near)


@kinds
def test_like_lengths_share_a_micro_batch_and_the_longest_come_first(
    task: str, models: dict[str, str]
) -> None:
    whole = tuning_of(models[task], task)
    parts = changed(whole, micro_batch=3)
    padded = []
    for step in (1, 2, 3):
        (batch,), cut = whole.batch(step), parts.batch(step)
        assert [len(part.inputs["input_ids"]) for part in cut] == [3, 3, 2]
        assert sum(part.tokens for part in cut) == batch.tokens
        assert sum(part.count for part in cut) == batch.count
        widths = [part.inputs["input_ids"].shape[1] for part in cut]
        assert widths == sorted(widths, reverse=True)
        assert widths[0] == batch.inputs["input_ids"].shape[1]
        padded.append((sum(part.padded for part in cut), batch.padded))
    if task == "reviews":  # every prompt of the other fills the length that it is cut to
        assert any(ours < theirs for ours, theirs in padded)


@kinds
def test_a_batch_says_how_many_supervised_tokens_it_has(task: str, models: dict[str, str]) -> None:
    tuning = tuning_of(models[task], task)
    (batch,) = tuning.batch(1)
    with torch.no_grad():
        assert batch.count == tuning.model.score(batch).count.sum().item()


@pytest.mark.parametrize("size", [8, 100, "auto"])
def test_micro_batches_as_large_as_the_batch_are_the_whole_batch(
    size: Any, small_encoder: str
) -> None:
    """To the bit, dropout included."""
    tuning = tuning_of(small_encoder, "reviews")
    whole, weights = steps(tuning, 4, dropout=0.3)
    same, learned = steps(fitted(changed(tuning, micro_batch=size)), 4, dropout=0.3)
    assert same.curve == whole.curve
    torch.testing.assert_close(learned, weights, rtol=0, atol=0)
    assert footprint(changed(tuning, micro_batch=size)).micro_batch == 8
    assert footprint(tuning).micro_batch is None


def test_a_step_is_one_update(small_encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    update = METHODS["lora"].update

    def counted(method: Any, net: Any, optimizer: Any, step: int) -> None:
        taken.append(step)
        update(method, net, optimizer, step)

    monkeypatch.setattr(METHODS["lora"], "update", counted)
    steps(tuning_of(small_encoder, "reviews"), 3, micro_batch=3)
    assert taken == [1, 2, 3]


def test_one_micro_batch_that_is_not_finite_ends_the_run(
    small_encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuning = changed(tuning_of(small_encoder, "reviews"), micro_batch=3)
    before = whole_state(tuning.model.net, None)["tensors"]
    score, calls = tuning.model.score, [0]

    def third_fails(batch: Batch) -> BatchResult:
        calls[0] += 1
        result = score(batch)
        return dataclasses.replace(result, nll=result.nll * (math.nan if calls[0] == 3 else 1))

    monkeypatch.setattr(tuning.model, "score", third_fails)
    with unchanged(tuning.model.net, tuning.optimizer):
        with pytest.raises(EndedError, match="step 1 of 20: loss nan") as ended:
            train(tuning, never)
        assert_equal(whole_state(tuning.model.net, None)["tensors"], before)
    assert ended.value.status == "diverged"


def test_what_comes_to_require_a_gradient_between_micro_batches_stops_the_run(
    small_encoder: str,
) -> None:
    tuning = changed(tuning_of(small_encoder, "reviews"), micro_batch=3)
    embeddings = tuning.model.net.get_input_embeddings().weight
    embeddings.requires_grad_(True)
    try:
        with pytest.raises(InvariantError, match="step 1"):
            train(tuning, never)
    finally:
        embeddings.requires_grad_(False)


# -- bytes and FLOPs


@kinds
def test_smaller_micro_batches_take_fewer_bytes(task: str, models: dict[str, str]) -> None:
    tuning = tuning_of(models[task], task)
    sizes = [footprint(changed(tuning, micro_batch=size)) for size in (None, 4, 2, 1)]
    peaks = [size.peak_bytes for size in sizes]
    assert peaks == sorted(peaks, reverse=True)
    assert len(set(peaks)) == len(peaks)
    assert [size.micro_batch for size in sizes] == [None, 4, 2, 1]
    assert len({size.peak_parts.weights for size in sizes}) == 1


# -- what fits


class Device:
    """One that has the memory for `room` examples at a time, and forgets nothing of a step that it
    could not finish."""

    def __init__(self, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room = room
        self.tried: list[int] = []
        update = METHODS["lora"].update

        def fails_late(method: Any, net: Any, optimizer: Any, step: int) -> None:
            update(method, net, optimizer, step)
            if self.tried[-1] > self.room:
                raise torch.OutOfMemoryError("CUDA out of memory.")

        monkeypatch.setattr(METHODS["lora"], "update", fails_late)

    def score(self, scored: Callable[[Batch], BatchResult]) -> Callable[[Batch], BatchResult]:
        def on_device(batch: Batch) -> BatchResult:
            rows = len(batch.target)
            if torch.is_grad_enabled():
                self.tried.append(rows)
                if rows > 2 * self.room:
                    raise torch.OutOfMemoryError("CUDA out of memory.")
            return scored(batch)

        return on_device


@pytest.mark.parametrize(("room", "size"), [(7, 4), (3, 2), (2, 2), (1, 1), (100, 8)])
def test_auto_halves_until_a_step_fits_and_changes_nothing(
    room: int, size: int, small_encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(room, monkeypatch)
    tuning = changed(tuning_of(small_encoder, "reviews"), micro_batch="auto")
    monkeypatch.setattr(tuning.model, "score", device.score(tuning.model.score))
    before = whole_state(tuning.model.net, tuning.optimizer)
    assert fitted(tuning).micro_batch == size
    assert_equal(whole_state(tuning.model.net, tuning.optimizer), before)
    assert sorted(set(device.tried), reverse=True)[-1] == size


def test_a_record_says_what_fitted(small_encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given, _ = done(run(wanted(small_encoder, "reviews", steps=3, micro_batch=2)))
    device = Device(3, monkeypatch)
    on(device, monkeypatch)
    found, _ = done(run(wanted(small_encoder, "reviews", steps=3, micro_batch="auto")))
    assert found.footprint == given.footprint
    assert found.footprint
    assert found.footprint.micro_batch == 2
    assert found.curve == given.curve


def test_a_run_whose_single_examples_do_not_fit_is_out_of_memory(
    small_encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(Device(0, monkeypatch), monkeypatch)
    record = run(wanted(small_encoder, "reviews", micro_batch="auto")).record
    assert record.status == "out-of-memory"


def test_another_error_is_no_lack_of_memory(
    small_encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuning = changed(tuning_of(small_encoder, "reviews"), micro_batch="auto")

    def broken(batch: Batch) -> BatchResult:
        raise RuntimeError("a kernel failed")

    monkeypatch.setattr(tuning.model, "score", broken)
    with pytest.raises(RuntimeError, match="a kernel failed"):
        fitted(tuning)


def on(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs take place on the device."""

    def prepared(spec: RunSpec, _: torch.device) -> FineTuning:
        tuning = set_up(spec, CPU)
        model: AbstractModel = tuning.model
        monkeypatch.setattr(model, "score", device.score(model.score))
        return tuning

    monkeypatch.setattr(run_module, "set_up", prepared)
