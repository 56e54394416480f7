"""The instruments against what can be counted by hand."""

import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from peftbench.training.measure import (
    PeakBytes,
    gemm_peak,
    interleaved,
    optimizer_bytes,
    spread,
    step_peak,
)

CPU = torch.device("cpu")


class TwoLayers(nn.Module):
    """100 -> 200 -> relu -> 50, no biases."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(100, 200, bias=False)
        self.b = nn.Linear(200, 50, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)))


def step(rows: int = 64) -> tuple[TwoLayers, Callable[[], Tensor], torch.optim.Optimizer]:
    """A network, its loss and an optimizer that has its state."""
    net, x = TwoLayers(), torch.randn(rows, 100)
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)
    net(x).sum().backward()
    optimizer.step()
    return net, lambda: net(x).sum(), optimizer


def test_tracker_counts_a_storage_once_and_until_it_is_freed() -> None:
    with PeakBytes() as tracker:
        a = torch.ones(1000)
        view = a[10:].view(2, -1)
        a += 1
        assert tracker.live["activations"] == 4000
        b = a * 2
        assert tracker.live["activations"] == 8000
        del a
        assert tracker.live["activations"] == 8000  # the view keeps it
        del view, b
    assert tracker.live["activations"] == 0
    assert tracker.peak == 8000


def test_tracker_tells_held_tensors_apart() -> None:
    weight = torch.ones(500)
    with PeakBytes() as tracker:
        tracker.hold("weights", [weight, weight[:10]])
        y = weight + 1
        tracker.hold("gradients", [y])
    assert tracker.parts().model_dump() == {
        "weights": 2000,
        "gradients": 0,
        "optimizer": 0,
        "activations": 2000,
        "other": 0,
    }
    assert tracker.live["gradients"] == 2000  # held as such only after the peak


def test_a_step_is_what_the_closed_form_says() -> None:
    net, loss, optimizer = step()
    peak, parts, flops = step_peak(net, loss, optimizer, optimizer.step)
    weights = 4 * (100 * 200 + 200 * 50)
    assert parts.weights == weights
    assert parts.optimizer == 2 * weights + 2 * 4  # two moments and a step count each
    # forward keeps relu's result (64, 200) and the loss; the gradient of b's weight exists when the
    # one of relu's result is made
    assert parts.activations == 4 * 64 * 200 + 4
    assert parts.gradients == 4 * 200 * 50
    assert peak == sum(parts.model_dump().values())
    forward = 2 * 64 * (100 * 200 + 200 * 50)
    assert (
        flops == 3 * forward - 2 * 64 * 100 * 200
    )  # backward: two products per layer, but none for the input's gradient


def test_activations_grow_with_the_batch_and_nothing_else_does() -> None:
    small, large = (step_peak(*s[:2], s[2], s[2].step)[1] for s in (step(64), step(128)))
    assert large.activations - 4 == 2 * (small.activations - 4)
    assert (large.weights, large.optimizer) == (small.weights, small.optimizer)


def test_without_an_optimizer_a_step_is_a_forward_pass() -> None:
    net, loss, _ = step()
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    peak, parts, _ = step_peak(net, loss, None, lambda: None)
    assert parts.gradients == parts.optimizer == 0
    assert parts.activations == 4 * 64 * (
        200 + 200
    )  # a's result and relu's, before the first is freed
    assert peak == parts.weights + parts.activations


def test_tracker_sees_the_same_without_memory_behind_it() -> None:
    def peak() -> int:
        torch.manual_seed(0)
        net, loss, optimizer = step()
        return step_peak(net, loss, optimizer, optimizer.step)[0]

    real = peak()
    with FakeTensorMode():
        fake = peak()
    assert fake == real


def test_optimizer_bytes() -> None:
    net, _, optimizer = step()
    assert optimizer_bytes(optimizer) == 2 * sum(4 * p.numel() for p in net.parameters()) + 2 * 4


def test_spread_is_median_and_interquartile_range() -> None:
    found = spread(float(i) for i in range(1, 102))
    assert (found.median, found.iqr, found.n) == (51, 50, 101)


def test_interleaving_times_the_call_and_not_the_set_up() -> None:
    calls: list[str] = []

    def arm(name: str) -> Callable[[], None]:
        def set_up() -> None:
            calls.append(name)
            time.sleep(0.02)

        return set_up

    found = interleaved({"a": arm("a"), "b": arm("b")}, lambda: time.sleep(0.001), CPU, 4)
    assert calls == ["a", "b"] * 5
    assert all(0.001 <= value.median < 0.015 and value.n == 4 for value in found.values())


def test_gemm_peak_is_a_rate() -> None:
    assert 1e8 < gemm_peak(CPU, torch.float32, size=256) < 1e14


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_tracker_agrees_with_cuda() -> None:
    device = torch.device("cuda")
    x = torch.randn(512, 1024, device=device)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with PeakBytes() as tracker:
        y = (x * 2).relu() + 1
        del y
    assert tracker.peak == pytest.approx(torch.cuda.max_memory_allocated() - before, rel=0.02)
