"""Dropout whose masks are drawn four elements at a time on the CPU, where torch draws one."""

# once_differentiable's type has no name for ctx
# pyright: reportIncompatibleMethodOverride=false

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

STEPS = 2**16  # the values of 16 random bits


def kept_share(p: float) -> float:
    """The probability with which an element stays where 16 random bits decide: 1 - p to 1e-5."""
    return 1 - round(p * STEPS) / STEPS


class MaskedScale(torch.autograd.Function):
    """x * keep / kept_share: the mask keeps a byte an element for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64)
        words.random_(-(2**63), None)  # all 64 bits
        bits = words.view(torch.int16)[: x.numel()].view(x.shape)
        keep = bits >= round(p * STEPS) - STEPS // 2
        ctx.save_for_backward(keep)
        ctx.scale = 1 / kept_share(p)
        return x * keep.to(x.dtype).mul_(ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (keep,) = ctx.saved_tensors
        return gradients[0] * keep.to(gradients[0].dtype).mul_(ctx.scale), None


def dropout(x: Tensor, p: float) -> Tensor:
    """As F.dropout in training, from torch's global generator; one draw more or less than there
    changes nothing but which elements are dropped."""
    # other devices, and compiled code, draw many at a time themselves
    if x.device.type != "cpu" or torch.compiler.is_compiling() or not 0 < round(p * STEPS) < STEPS:
        return F.dropout(x, p, training=True)
    return MaskedScale.apply(x, p)  # type: ignore[return-value]


class Dropout(nn.Dropout):
    """nn.Dropout by `dropout`."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return input
        return dropout(input, self.p)


def hasten(model: nn.Module) -> None:
    """Put `Dropout` in the place of every nn.Dropout of a network."""
    for module in model.modules():
        if type(module) is nn.Dropout and not module.inplace:
            module.__class__ = Dropout
