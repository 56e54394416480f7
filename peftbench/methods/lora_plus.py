"""LoRA+: LoRA whose B learns `ratio` times as fast as A, lr_B = ratio * lr_A."""

from typing import Any

from pydantic import PositiveFloat
from torch import nn

from peftbench.methods.base import Range, rates
from peftbench.methods.linear import layers
from peftbench.methods.low_rank import AbstractLowRankMethod, LowRank


class LoRAPlus(AbstractLowRankMethod):
    """LoRA with two learning rates.

    B's group holds the matrices B and nothing else. The authors' code also puts every
    one-dimensional parameter there (nikhil-ghosh-berkeley/loraplus @ a0c44bfe, lora_plus.py), so
    that a head's bias learns faster than its weight.
    """

    version = 1
    paper = "arXiv:2402.12354"
    lr = 3e-4
    space = rates(1e-5, 1e-3) | {"args.ratio": Range(1, 64, log=True, least=1)}  # 1 is LoRA

    ratio: PositiveFloat = 16.0
    """Learning rate of B relative to that of A, which is `train.lr`; 1: LoRA."""

    def param_groups(
        self, parameters: list[nn.Parameter], model: nn.Module, lr: float
    ) -> list[dict[str, Any]]:
        fast = {id(layer.B) for layer in layers(model, LowRank).values()}
        return [
            {"params": [p for p in parameters if id(p) not in fast], "lr": lr},
            {"params": [p for p in parameters if id(p) in fast], "lr": lr * self.ratio},
        ]
