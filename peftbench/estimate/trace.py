"""The bytes of one training step, stage by stage, on tensors without memory behind them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)
from torch.nn.attention import SDPBackend, sdpa_kernel

from peftbench.errors import InputError, first_line
from peftbench.estimate import peft_network
from peftbench.estimate.network import network
from peftbench.estimate.setting import Setting
from peftbench.estimate.tuning import model_without_texts, tuning_without_texts
from peftbench.methods.quantized import library, values_of_codes
from peftbench.tasks.base import TaskKind
from peftbench.training.footprint import Part, PeakBytes, Stage, state_tensors, step_peak
from peftbench.training.head import LOGITS
from peftbench.training.models import quantize
from peftbench.training.transformer_blocks import as_trained, transformer_blocks

Bytes = Mapping[Part, int]
# What a network raises that asks a tensor without values for one.
VALUES_WANTED = (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)
START, END = "start", "end"  # places before the first block and after the last one


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One step at some number of layers. Places of its stages are START, the blocks' numbers from
    0, END; None: no place of its own."""

    layers: int
    total_params: int
    peaks: Mapping[Stage, Bytes]  # of each stage
    weights: int  # bytes that live between two steps
    optimizer: int
    gradients: int  # bytes of the gradients of all that is trained
    largest_block: int  # bytes of the weights of a transformer block
    gradients_of_block: int
    flops: int  # of the traced examples


@dataclass(frozen=True)
class Step:
    """What is to be traced."""

    net: nn.Module
    losses: Callable[[], Iterable[Tensor]]
    optimizer: torch.optim.Optimizer | None
    update: Callable[[int], None]  # by the step's number
    settled_at: int  # a step after which all is there that the method keeps
    total_params: int


def trace(setting: Setting, config: Any, kind: TaskKind, layers: int) -> Trace:
    """Through the project's own model, base, attaching, loss and step; or transformers' own network
    and loss with peft's layers. Raises InputError where a network cannot be traced."""
    if setting.base != "plain":  # these need real tensors the first time
        library()
        values_of_codes("even")
        values_of_codes("dynamic")
    ours = setting.implementation == "ours"
    theirs = (None, 0) if ours else peft_network.on_meta(setting, config, kind)
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([]))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        if setting.attention == "math":
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        try:
            step = _ours(setting, config, kind) if ours else _theirs(setting, kind, *theirs)
            return _traced(setting, step, layers)
        except VALUES_WANTED as error:
            raise InputError(
                f"model {setting.model!r} ({config.model_type}) cannot be estimated: what it "
                f"computes depends on values: {first_line(error)}"
            ) from error


def _ours(setting: Setting, config: Any, kind: TaskKind) -> Step:
    spec = setting.spec()
    net = network(setting, config, kind)
    if setting.base != "plain":
        quantize(net, setting.base, torch.device("cpu"))
    model = model_without_texts(spec, net, kind)
    vars(model)["logits"] = LOGITS[setting.device]
    tuning = tuning_without_texts(spec, model, setting.lengths, supervised_tokens(setting))
    optimizer, batch = tuning.optimizer, tuning.batch(1)

    def update(step: int) -> None:
        if optimizer is not None:
            tuning.method.update(net, optimizer, step)

    settled_at = tuning.method.settled_at
    return Step(
        net, lambda: tuning.losses(batch), optimizer, update, settled_at, tuning.total_params
    )


def _theirs(setting: Setting, kind: TaskKind, on_meta: Any, total: int) -> Step:
    net = peft_network.with_tensors(on_meta)
    trained = trained_parameters(net)
    optimizer = torch.optim.AdamW(trained, lr=1e-3, fused=True) if trained else None
    losses = peft_network.losses_of(setting, net, kind, supervised_tokens(setting))

    def update(_: int) -> None:
        if optimizer is not None:
            optimizer.step()

    return Step(net, losses, optimizer, update, 1, total)


def supervised_tokens(setting: Setting) -> int:
    return min(setting.supervised or setting.length, setting.lengths[-1] - 1)


def _traced(setting: Setting, step: Step, layers: int) -> Trace:
    net, optimizer, tracker = step.net, step.optimizer, PeakBytes()
    net.train(optimizer is not None)
    settled = step.settled_at
    if optimizer is not None:  # a step that leaves what is there from then on
        for parameter in trained_parameters(net):
            parameter.grad = torch.zeros_like(parameter)
        step.update(settled)

    def update() -> None:
        wide = temporaries(optimizer) if optimizer and setting.optimizer == "foreach" else ()
        for _ in wide:
            pass
        step.update(settled + 1)

    with as_trained(net, checkpointing=setting.checkpointing), told_apart(net, tracker):
        _, _, flops = step_peak(net, step.losses, optimizer, update, tracker)
    blocks = transformer_blocks(net)
    return Trace(
        layers=layers,
        total_params=step.total_params,
        peaks=tracker.peaks,
        weights=weight_bytes(net),
        optimizer=sum(t.nbytes for t in state_tensors(optimizer)),
        gradients=gradient_bytes(net),
        largest_block=max(map(weight_bytes, blocks), default=0),
        gradients_of_block=max(map(gradient_bytes, blocks), default=0),
        flops=flops,
    )


def trained_parameters(net: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in net.parameters() if parameter.requires_grad]


def weight_bytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def gradient_bytes(module: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in trained_parameters(module))


def temporaries(optimizer: torch.optim.Optimizer) -> Iterator[list[Tensor]]:
    """What the foreach form of AdamW holds beside its state, for each of its groups: the roots of
    all second moments."""
    for group in optimizer.param_groups:
        states = [optimizer.state[p] for p in group["params"] if p in optimizer.state]
        yield [state["exp_avg_sq"].sqrt() for state in states]


@contextmanager
def told_apart(net: nn.Module, tracker: PeakBytes) -> Iterator[None]:
    """Within it, a transformer block is a place of its own in the forward pass and in the backward
    pass."""
    blocks = transformer_blocks(net)
    handles = [
        handle
        for i, block in enumerate(blocks)
        for handle in (
            block.register_forward_pre_hook(_before(tracker, i), with_kwargs=True),
            block.register_forward_hook(_behind(tracker, i, i == len(blocks) - 1)),
        )
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _before(tracker: PeakBytes, block: int) -> Callable[..., None]:
    def enter(_: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        tracker.enter_place(str(block))
        states = args[0] if args else kwargs.get("hidden_states")
        if block == 0 and isinstance(states, Tensor) and states.requires_grad:
            states.register_hook(lambda _: tracker.enter_place(START))

    return enter


def _behind(tracker: PeakBytes, block: int, last: bool) -> Callable[..., None]:
    def leave(_: nn.Module, __: Any, output: Any) -> None:
        states = output[0] if isinstance(output, tuple) else output
        if states.requires_grad:  # its gradient is there: the block's backward pass begins
            states.register_hook(lambda _: tracker.enter_place(str(block)))
        if last:
            tracker.enter_place(END)

    return leave
