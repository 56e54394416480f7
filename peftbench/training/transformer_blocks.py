"""The transformer blocks of a network in the form that a step takes: computed again in the backward
pass, or compiled."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial, wraps
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from peftbench.errors import InputError
from peftbench.spec import TrainSpec
from peftbench.training import compilation
from peftbench.training.generation import about


def transformer_blocks(net: nn.Module) -> list[nn.Module]:
    """The network's transformer blocks, which are those that transformers would recompute; none is
    within another."""
    found: list[nn.Module] = []
    inner: set[nn.Module] = set()
    for module in net.modules():  # a block comes before what is in it
        if isinstance(module, GradientCheckpointingLayer) and module not in inner:
            found.append(module)
            inner |= set(module.modules())
    return found


def check_transformer_blocks(net: Any, spec: TrainSpec, device: torch.device | None) -> None:
    """Raises InputError where the network, or for compilation the machine, cannot do what the
    settings ask for. device: on this machine; None: on another one."""
    for name in ("checkpointing", "compile"):
        if getattr(spec, name) and not transformer_blocks(net):
            raise InputError(
                f"train.{name}: {about(net)} has no transformer blocks that transformers marks: "
                "leave the setting out"
            )
    if spec.checkpointing and not net.supports_gradient_checkpointing:
        raise InputError(
            f"train.checkpointing: {about(net)} does not support it in transformers: "
            "leave the setting out"
        )
    if spec.compile and device is not None and (missing := compilation.missing(device)):
        raise InputError(
            f"train.compile: this machine has no {missing}: install it, or leave the setting out"
        )


@contextmanager
def as_trained(net: nn.Module, *, checkpointing: bool, compiled: bool = False) -> Iterator[None]:
    """Within it, blocks in training mode keep their input alone and are computed again for the
    backward pass, with the same dropout (checkpointing), or are compiled.

    In evaluation mode they stay plain: validation and generation, whose caches and lengths grow,
    compile nothing.
    """
    blocks = transformer_blocks(net) if checkpointing or compiled else []
    for block in blocks:
        vars(block)["forward"] = _form(block, block.forward, checkpointing, compiled)
    try:
        with compilation.compiling() if compiled else nullcontext():
            yield
    finally:
        for block in blocks:
            del vars(block)["forward"]


def _form(block: nn.Module, plain: Any, checkpointing: bool, compiled: bool) -> Any:
    """A block's forward: `plain`, but in training mode as `as_trained` says."""
    trained = compilation.compiled(plain) if compiled else plain
    if checkpointing:
        trained = partial(checkpoint, trained, use_reentrant=False)

    @wraps(plain)
    def forward(*args: Any, **kwargs: Any) -> Any:
        return (trained if block.training else plain)(*args, **kwargs)

    return forward
