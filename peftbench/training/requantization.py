"""What is lost where a trained change is merged into a quantised base and quantised with it."""

import torch
from torch import nn

from peftbench.methods.linear import AbstractAdapted, layers
from peftbench.methods.quantized import QuantizedLinear
from peftbench.training.singular_values import sampled


@torch.no_grad()
def requantized(net: nn.Module) -> dict[str, float | None]:
    """`requantized`, the norm of Q(W + D) - (W + D) relative to that of D, where W is a layer's
    dequantised weight, D the change that its adapter makes, and Q quantises and dequantises; over
    some of the layers together. 1: as much is lost as was learned; None: nothing has changed. Empty
    without an adapter beside a quantised layer."""
    adapted = {
        name: layer
        for name, layer in layers(net, AbstractAdapted).items()
        if isinstance(layer.base, QuantizedLinear)
    }
    if not adapted:
        return {}
    lost = changed = 0.0
    for name in sampled(list(adapted)):
        layer = adapted[name]
        assert isinstance(layer.base, QuantizedLinear)
        merged = layer.merged()
        error = QuantizedLinear(merged, layer.base.format).weight - merged.weight
        lost += error.double().square().sum().item()
        changed += layer.delta().double().square().sum().item()
    return {"requantized": (lost / changed) ** 0.5 if changed else None}
