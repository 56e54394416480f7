"""The loop: which examples in which order, the schedule, and what stops a run."""

import itertools
import math
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from peftbench.spec import TrainSpec
from peftbench.training import loop as loop_module
from peftbench.training.fine_tuning import make_optimizer, plan_batches
from peftbench.training.loop import EndedError, InvariantError, TrainingLog, factor, train

CPU = torch.device("cpu")


def train_spec(**values: Any) -> TrainSpec:
    return TrainSpec(**{"lr": 0.1, "precision": "float32"} | values)


@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=300),
    st.integers(1, 40),
    st.integers(1, 60),
    st.integers(0, 5),
)
def test_a_plan_has_full_batches_and_repeats_no_example_within_an_epoch(
    lengths: list[int], size: int, steps: int, seed: int
) -> None:
    batches = plan_batches(lengths, size, steps, seed)
    size = min(size, len(lengths))
    assert [len(batch) for batch in batches] == [size] * steps
    per_epoch = len(lengths) // size
    for start in range(0, steps, per_epoch):
        used = Counter(i for batch in batches[start : start + per_epoch] for i in batch)
        assert max(used.values()) == 1
        assert set(used) <= set(range(len(lengths)))


def test_a_seed_orders_the_data_and_nothing_else_does() -> None:
    lengths = [i % 37 for i in range(500)]
    assert plan_batches(lengths, 16, 40, seed=1) == plan_batches(lengths, 16, 40, seed=1)
    assert plan_batches(lengths, 16, 40, seed=1) != plan_batches(lengths, 16, 40, seed=2)


def test_batches_by_length_are_padded_far_less_than_random_ones() -> None:
    lengths = [5 + (i * 7919) % 60 for i in range(2000)]

    def padding(batches: list[list[int]]) -> float:
        return sum(len(b) * max(lengths[i] for i in b) for b in batches) / sum(
            lengths[i] for b in batches for i in b
        )

    order = torch.randperm(2000, generator=torch.Generator().manual_seed(0)).tolist()
    assert (
        padding(plan_batches(lengths, 16, 120, seed=0))
        < 1.1
        < 1.5
        < padding([order[i : i + 16] for i in range(0, 1920, 16)])
    )


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_the_schedule_rises_to_the_peak_and_then_never_rises_again(schedule: str) -> None:
    spec = train_spec(lr=1, steps=50, warmup=0.1, schedule=schedule)
    values = [factor(spec, step) for step in range(1, 51)]
    assert values[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert all(later <= earlier for earlier, later in itertools.pairwise(values[4:]))
    assert values[-1] > 0
    assert (
        values[-1]
        == {
            "linear": pytest.approx(1 / 45),
            "cosine": pytest.approx(0.5 * (1 - math.cos(math.pi / 45))),
            "constant": 1,
        }[schedule]
    )


def loop(
    spec: TrainSpec, net: nn.Linear, loss_scale: float = 1.0, groups: list | None = None
) -> tuple[TrainingLog, torch.optim.Optimizer]:
    """Train a layer on a toy loss; its valid nll is always 0.5."""
    optimizer = make_optimizer(groups or [{"params": list(net.parameters()), "lr": spec.lr}], spec)
    x = torch.arange(12.0).view(4, 3)
    tuning: Any = SimpleNamespace(
        spec=SimpleNamespace(train=spec, seed=0),
        model=SimpleNamespace(net=net, device=CPU),
        method=SimpleNamespace(update=lambda net, optimizer, step: optimizer.step()),
        optimizer=optimizer,
        data={"valid": SimpleNamespace(items=[])},
        batch=lambda step: [SimpleNamespace(tokens=10, padded=12)],
        losses=lambda batch: (net(x).square().mean() * loss_scale for _ in batch),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop_module, "likelihood", lambda *_: SimpleNamespace(mean=0.5))
        return train(tuning, lambda step, nll: False), optimizer


def test_the_loop_is_plain_adamw() -> None:
    spec = train_spec(steps=6, warmup=0, schedule="linear", clip=0.5, weight_decay=0.1)
    torch.manual_seed(0)
    net = nn.Linear(3, 2)
    twin = nn.Linear(3, 2)
    twin.load_state_dict(net.state_dict())
    out, _ = loop(spec, net)
    optimizer = torch.optim.AdamW(twin.parameters(), weight_decay=0.1)
    x, losses = torch.arange(12.0).view(4, 3), []
    for step in range(6):
        optimizer.param_groups[0]["lr"] = 0.1 * (6 - step) / 6
        loss = twin(x).square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert [point.train_loss for point in out.curve] == pytest.approx(losses, rel=1e-5)
    torch.testing.assert_close(net.weight, twin.weight)


def test_what_is_timed_and_counted() -> None:
    out, _ = loop(train_spec(steps=6, eval_every=4), nn.Linear(3, 2))
    assert len(out.step_seconds) == 4
    assert (out.tokens, out.padded) == (40, 48)
    assert sum(out.step_seconds) < out.train_seconds
    assert [point.valid_loss for point in out.curve] == [None, None, None, 0.5, None, None]
    one, _ = loop(train_spec(steps=1), nn.Linear(3, 2))
    assert len(one.step_seconds) == 1


@pytest.mark.parametrize("scale", [math.inf, math.nan, 1e38])
def test_divergence_is_told_and_takes_no_step(scale: float) -> None:
    net = nn.Linear(3, 2)
    before = net.weight.detach().clone()
    with pytest.raises(EndedError, match="step 1 of 5") as ended:
        loop(train_spec(steps=5), net, scale)
    assert ended.value.status == "diverged"
    torch.testing.assert_close(net.weight.detach(), before, rtol=0, atol=0)


def test_a_tensor_that_comes_to_require_a_gradient_stops_the_run() -> None:
    net = nn.Linear(3, 2)
    net.weight.requires_grad_(False)
    spec = train_spec(steps=5)
    loop(spec, net, groups=[{"params": [net.bias], "lr": 0.1}])
    net.weight.requires_grad_(True)  # what peft's disable_adapter() does to LoRA-FA's A
    with pytest.raises(InvariantError, match="step 1"):
        loop(spec, net, groups=[{"params": [net.bias], "lr": 0.1}])


def test_a_declared_parameter_that_no_step_reaches_stays_as_it_is() -> None:
    net = nn.Linear(3, 2)
    net.idle = nn.Parameter(torch.ones(1))
    loop(train_spec(steps=2), net)
    assert net.idle.item() == 1


def test_a_gradient_that_no_step_uses_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Linear(3, 2)
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *_: None)
    with pytest.raises(InvariantError, match="state"):
        loop(train_spec(steps=2), net)


def test_grouping_does_not_change_the_clipped_norm() -> None:
    spec = train_spec(steps=8, clip=0.01)
    nets = []
    for reverse in (False, True):
        torch.manual_seed(0)
        net = nn.Linear(3, 2)
        groups = [{"params": [p], "lr": 0.1} for p in net.parameters()]
        loop(spec, net, groups=groups[::-1] if reverse else groups)
        nets.append(net)
    torch.testing.assert_close(nets[0].state_dict(), nets[1].state_dict(), rtol=0, atol=0)
