"""Bytes and FLOPs against what can be counted by hand; a footprint changes nothing and needs no
memory behind its tensors."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from test_methods import ARMS, _name, method_of
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from peftbench.methods.base import AbstractMethod
from peftbench.methods.files import file_bytes
from peftbench.record import Footprint
from peftbench.spec import TrainSpec
from peftbench.training.footprint import Flops, PeakBytes, footprint, state_tensors, step_peak

SETTINGS = TrainSpec(lr=1e-2, precision="float32")
methods = pytest.mark.parametrize(
    "method", [*map(method_of, ARMS), tiny.BiasShift()], ids=[*map(_name, ARMS), "made up"]
)


class TwoLayers(nn.Module):
    """100 -> 200 -> relu -> 50, no biases."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(100, 200, bias=False)
        self.b = nn.Linear(200, 50, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)))


def step(
    rows: int = 64, micro_batch: int = 1000
) -> tuple[TwoLayers, Callable[[], Iterator[Tensor]], torch.optim.Optimizer]:
    """A network, its losses and an optimizer that has its state."""
    net, x = TwoLayers(), torch.randn(rows, 100)
    parts = x.split(micro_batch)
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)
    net(x).sum().backward()
    optimizer.step()
    return net, lambda: (net(part).sum() for part in parts), optimizer


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
    assert tracker.peak_parts == {
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


def test_micro_batches_share_a_step_of_the_same_flops() -> None:
    whole, parts = (step_peak(*s[:2], s[2], s[2].step) for s in (step(1024), step(1024, 16)))
    assert parts[2] == whole[2]
    assert parts[0] < whole[0]
    assert parts[1].gradients == parts[1].weights  # those of the first are there in the last
    assert parts[1].activations <= 4 * 16 * 200 + 4


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


def attached(
    method: AbstractMethod, model: Any, head: tuple[str, ...] = (), steps: int = 0
) -> tuple[Any, torch.optim.Optimizer | None]:
    """The model with the method, trained for some steps, then given dropout, and its optimizer."""
    own = tiny.attach(method, model, head)
    groups = [*method.param_groups(own, model, 1e-2), *tiny.head_group(model, head, 1e-2)]
    groups = [group for group in groups if group["params"]]
    if not groups:
        return model, None
    optimizer = torch.optim.AdamW(groups, fused=True)
    tiny.fit(model, optimizer, lambda step: method.update(model, optimizer, step), steps)
    optimizer.zero_grad()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.3
    return model, optimizer


def measured(
    method: AbstractMethod,
    model: Any,
    optimizer: torch.optim.Optimizer | None,
    step: int,
    head: tuple[str, ...] = (),
) -> Footprint:
    """The footprint of a run that ends with the step before `step`."""
    batch = tiny.batch(model)
    tuning: Any = SimpleNamespace(
        spec=SimpleNamespace(train=SETTINGS.model_copy(update={"steps": step - 1})),
        method=method,
        model=SimpleNamespace(
            net=model,
            head=head,
            head_parameters=lambda: [
                p for name in head for p in model.get_submodule(name).parameters()
            ],
        ),
        optimizer=optimizer,
        largest_batch=lambda: [batch],
        losses=lambda batches: (model(**inputs).loss for inputs in batches),
        total_params=1000,
    )
    return footprint(tuning)


def whole_state(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> dict[str, Any]:
    """Everything that a step may change, tensors as copies."""
    modules = dict(model.named_modules())
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    state = optimizer.state_dict() if optimizer is not None else {}
    return {
        "modules": {name: id(module) for name, module in modules.items()},
        "attributes": {name: sorted(vars(module)) for name, module in modules.items()},
        "training": {name: module.training for name, module in modules.items()},
        "tensors": {name: (id(t), t.detach().clone()) for name, t in tensors.items()},
        "gradients": {name: p.grad for name, p in model.named_parameters()},
        "groups": state.get("param_groups"),
        "state": {
            key: {name: value.clone() for name, value in entry.items()}
            for key, entry in state.get("state", {}).items()
        },
        "random": torch.get_rng_state(),
    }


def assert_equal(one: Any, other: Any) -> None:
    """To the bit."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_equal(*pair)
    elif isinstance(one, Tensor):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    else:
        assert one == other


@methods
@pytest.mark.parametrize("build", [tiny.llama, tiny.roberta], ids=_name)
@pytest.mark.parametrize("steps", [0, 4], ids=["before training", "after training"])
def test_a_footprint_leaves_everything_as_it_was(
    method: AbstractMethod, build: Any, steps: int
) -> None:
    """Delta-LoRA's W begins to move, or the made-up method to shift, in the very step measured."""
    head = tiny.HEADS[build]
    model, optimizer = attached(method, tiny.make(build, torch.float32), head, steps)
    for step in (2, 5):
        before = whole_state(model, optimizer)
        measured(method, model, optimizer, step, head)
        assert_equal(whole_state(model, optimizer), before)


@methods
def test_a_footprint_between_steps_changes_no_later_step(method: AbstractMethod) -> None:
    losses = []
    for looked in (False, True):
        head = ("classifier",)
        model, optimizer = attached(method, tiny.make(tiny.roberta, torch.float32), head, 2)
        assert optimizer is not None

        def update(step: int, model: Any = model, optimizer: Any = optimizer) -> None:
            method.update(model, optimizer, step + 2)

        with torch.random.fork_rng():
            torch.manual_seed(0)
            model.train()
            if looked:
                measured(method, model, optimizer, 5, head)
            losses.append(tiny.fit(model, optimizer, update, 5))
    assert losses[0] == losses[1]


@pytest.mark.parametrize("arm", ARMS, ids=_name)
@pytest.mark.parametrize("build", [tiny.llama, tiny.roberta], ids=_name)
def test_a_footprint_needs_no_memory_no_training_and_no_tokenizer(arm: Any, build: Any) -> None:
    """A model of tensors without memory behind them, on which no step was taken, has the footprint
    of one that was trained."""
    method, head = method_of(arm), tiny.HEADS[build]
    real = measured(method, *attached(method, tiny.make(build, torch.float32), head, 3), 4, head)
    with FakeTensorMode():
        fake = measured(method, *attached(method, build(), head, 0), 4, head)
    assert fake == real
    assert real.peak_bytes == sum(real.peak_parts.model_dump().values())


def test_each_part_is_null_on_its_own() -> None:
    """Nothing trained: no FLOPs of a step, but a file; a method without a file: FLOPs."""
    frozen = method_of(("frozen", {}))
    nothing = measured(frozen, *attached(frozen, tiny.make(tiny.llama)), step=1)
    assert nothing.flops_per_step is None
    assert nothing.optimizer_bytes == nothing.trained_params == nothing.peak_parts.gradients == 0
    assert nothing.adapter_file_bytes == file_bytes(frozen, nn.Module(), ())
    shift = tiny.BiasShift()
    fileless = measured(shift, *attached(shift, tiny.make(tiny.llama)), step=1)
    assert fileless.adapter_file_bytes is None
    assert fileless.flops_per_step


def test_optimizer_bytes() -> None:
    net, _, optimizer = step()
    held = sum(tensor.nbytes for tensor in state_tensors(optimizer))
    assert held == 2 * sum(4 * p.numel() for p in net.parameters()) + 2 * 4


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("build", [tiny.llama, tiny.roberta], ids=_name)
def test_flops_are_those_of_torchs_counter(build: Any, trained: bool) -> None:
    model = tiny.make(build, torch.float32)
    totals: list[int] = []
    for counter in (Flops(), FlopCounterMode(display=False)):
        with counter, torch.inference_mode(not trained):
            loss = model(**tiny.batch(model)).loss
            if trained:
                loss.backward()
        totals.append(counter.total if isinstance(counter, Flops) else counter.get_total_flops())
    assert totals[0] == totals[1] > 0


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
