"""What training takes whatever the machine: parameters, bytes, FLOPs."""

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from peftbench.methods import files
from peftbench.record import Footprint, Parts
from peftbench.training.fine_tuning import FineTuning, accumulate
from peftbench.training.transformer_blocks import as_trained

Part = Literal["weights", "gradients", "optimizer", "activations", "other"]
Phase = Literal["forward", "backward", "update"]
BORN: dict[Phase, Part] = {"forward": "activations", "backward": "other", "update": "other"}


@dataclass(frozen=True)
class Stage:
    """A part of a step in time."""

    micro_batch: int  # from 0
    phase: Phase
    place: str | None = None  # within the phase, where somebody says it (PeakBytes.enter_place)


class PeakBytes(TorchDispatchMode):
    """Live tensor bytes: current, at the peak of each stage and of all, and what a peak is made of.

    Every storage that an operation returns is counted once from its birth until it is freed, on any
    device and under FakeTensorMode. Scratch memory inside one operation is not seen. What lives
    before must be named with `hold`; what is born counts as the phase says.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[Part, int] = dict.fromkeys(get_args(Part), 0)
        self.stage = Stage(0, "forward")
        self.peaks: dict[Stage, dict[Part, int]] = {}
        self._highest = 0  # bytes at the peak of this stage
        # storage's id -> part, bytes, weak reference
        self._part: dict[int, tuple[Part, int, Any]] = {}
        self._begin(self.stage)

    def enter(self, phase: Phase) -> None:
        """A phase begins; a forward pass after a backward pass is the next micro-batch's."""
        again = phase == "forward" and self.stage.phase == "backward"
        self._begin(Stage(self.stage.micro_batch + again, phase))

    def enter_place(self, place: str) -> None:
        """Another place within the phase, of which the peak is to be told apart."""
        if place != self.stage.place:
            self._begin(replace(self.stage, place=place))

    def _begin(self, stage: Stage) -> None:
        self.stage = stage
        self._highest = sum(self.peaks[stage].values()) if stage in self.peaks else -1
        self._note()

    def hold(self, part: Part, tensors: Iterable[Tensor]) -> None:
        """Count `tensors` as `part`, whether they were seen before or not."""
        for tensor in (dense for given in tensors for dense in _dense(given)):
            storage = tensor.untyped_storage()
            key = id(storage)
            if key in self._part:
                old, size, reference = self._part[key]
                self.live[old] -= size
            else:
                size, reference = storage.nbytes(), weakref.ref(storage, self._forget(key))
            self._part[key] = (part, size, reference)
            self.live[part] += size
        self._note()

    def _forget(self, key: int) -> Callable[[Any], None]:
        def freed(_: Any) -> None:
            part, size, _ = self._part.pop(key)
            self.live[part] -= size

        return freed

    def _note(self) -> None:
        total = sum(self.live.values())
        if total > self._highest:
            self._highest, self.peaks[self.stage] = total, dict(self.live)

    @property
    def peak_parts(self) -> dict[Part, int]:
        """What the peak of all stages is made of."""
        return max(self.peaks.values(), key=lambda parts: sum(parts.values()))

    @property
    def peak(self) -> int:
        """Bytes at the peak of all stages."""
        return sum(self.peak_parts.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        born = [
            dense
            for leaf in tree_leaves(result)
            if isinstance(leaf, Tensor)
            for dense in _dense(leaf)
            if id(dense.untyped_storage()) not in self._part
        ]
        if born:
            self.hold(BORN[self.stage.phase], born)
        return result


def _dense(tensor: Tensor) -> tuple[Tensor, ...]:
    """What has memory of a tensor: itself, or the indices and values of a sparse one."""
    if tensor.layout == torch.strided:
        return (tensor,)
    if tensor.layout != torch.sparse_coo:
        raise NotImplementedError(f"bytes of a tensor with the layout {tensor.layout}")
    return tensor._indices(), tensor._values()


class Flops(TorchDispatchMode):
    """FLOPs of products and attention, by torch's formulas.

    torch's own FlopCounterMode also follows modules, by hooks that keep tensors in reference
    cycles: what a block recomputes would be alive until Python collects garbage, and the peak of a
    step with checkpointing two to three times too high.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        formula = flop_registry.get(func._overloadpacket)
        # the one exception, as in torch's: a tensor without memory asks for its device in this way
        if formula is None and func is not torch.ops.prim.device.default:
            with self:  # in inference mode a linear layer comes here whole
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        result = func(*args, **kwargs)
        if formula is not None:
            self.total += formula(*args, **kwargs, out_val=result)
        return result


def footprint(tuning: FineTuning) -> Footprint:
    """What a step takes, the one after the last, on the largest batch: in its micro-batches, with
    its checkpointing, but never compiled, since no operation inside compiled code is seen. Works
    under FakeTensorMode, where all tensors must have been made. Leaves the network, the optimizer
    and torch's random generators exactly as they were."""
    method, net, optimizer = tuning.method, tuning.model.net, tuning.optimizer
    spec = tuning.spec.train
    head_params = sum(p.numel() for p in tuning.model.head_parameters())
    trained_params = sum(p.numel() for p in net.parameters() if p.requires_grad) - head_params
    largest = tuning.largest_batch()

    def update() -> None:
        if optimizer is not None:
            method.update(net, optimizer, spec.steps + 1)

    with unchanged(net, optimizer), as_trained(net, checkpointing=spec.checkpointing):
        net.train(optimizer is not None)
        if optimizer is not None and not optimizer.state:  # made by the first step
            accumulate(tuning.losses(largest))
            update()
        peak, parts, flops = step_peak(net, lambda: tuning.losses(largest), optimizer, update)
        optimizer_bytes = sum(tensor.nbytes for tensor in state_tensors(optimizer))
    return Footprint(
        trained_params=trained_params,
        head_params=head_params,
        updatable_params=trained_params + method.updatable(net),
        total_params=tuning.total_params,
        optimizer_bytes=optimizer_bytes,
        adapter_file_bytes=files.file_bytes(method, net, tuning.model.head),
        peak_bytes=peak,
        peak_parts=parts,
        flops_per_step=flops if optimizer is not None else None,
        micro_batch=tuning.micro_batch if spec.micro_batch is not None else None,
    )


def step_peak(
    net: nn.Module,
    losses: Callable[[], Iterable[Tensor]],
    optimizer: torch.optim.Optimizer | None,
    update: Callable[[], None],
    tracker: PeakBytes | None = None,
) -> tuple[int, Parts, int]:
    """Peak bytes, their parts, and FLOPs of one training step: forward and backward pass of each of
    the losses in turn, update. Without an optimizer: of the forward passes. A tracker that is given
    keeps the peak of each stage.

    Weights change, as in any step. The optimizer's state should exist already, as it does from the
    second step on.
    """
    counter, tracker = Flops(), tracker or PeakBytes()
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.grad = None

    def hold_gradient(parameter: Tensor) -> None:
        if parameter.grad is not None:
            tracker.hold("gradients", [parameter.grad])

    hooks = [p.register_post_accumulate_grad_hook(hold_gradient) for p in trained]
    try:
        with counter, tracker:
            tracker.hold("weights", [*net.parameters(), *net.buffers()])
            if optimizer is None:
                with torch.inference_mode():
                    for _ in losses():
                        pass
            else:
                tracker.hold("optimizer", state_tensors(optimizer))
                for loss in losses():
                    tracker.enter("backward")
                    loss.backward()
                    del loss
                    tracker.enter("forward")
                tracker.enter("update")
                update()
    finally:
        for hook in hooks:
            hook.remove()
    return tracker.peak, Parts(**tracker.peak_parts), counter.total


def state_tensors(optimizer: torch.optim.Optimizer | None) -> list[Tensor]:
    """Every tensor of the optimizer's state."""
    return [
        value
        for state in (optimizer.state.values() if optimizer is not None else ())
        for value in state.values()
        if isinstance(value, Tensor)
    ]


@contextmanager
def unchanged(net: nn.Module, optimizer: torch.optim.Optimizer | None) -> Iterator[None]:
    """Whatever steps are taken within, and even if one fails, afterwards the network and the
    optimizer are as before, to the bit, and so are torch's random generators. What a step may write
    to (AbstractMethod.update says what) is copied to the CPU."""
    optimizer_state = optimizer.state if optimizer is not None else {}
    tables: list[dict[Any, Any]] = [optimizer_state, *optimizer_state.values()]
    for module in net.modules():  # a module's attributes, parameters, buffers and children
        tables += [vars(module), module._parameters, module._buffers, module._modules]
    before = [dict(table) for table in tables]
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    gradients = [parameter.grad for parameter in trained]
    tensors = [*trained, *net.buffers(), *state_tensors(optimizer)]
    copies = [tensor.detach().to("cpu", copy=True) for tensor in tensors]
    devices = {tensor.device for tensor in tensors if tensor.device.type == "cuda"}
    try:
        with torch.random.fork_rng(list(devices)):
            yield
    finally:
        for table, entries in zip(tables, before, strict=True):
            table.clear()
            table.update(entries)
        with torch.no_grad():
            for tensor, copy in zip(tensors, copies, strict=True):
                tensor.copy_(copy)
        for parameter, gradient in zip(trained, gradients, strict=True):
            parameter.grad = gradient
