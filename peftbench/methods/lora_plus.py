"""LoRA+: LoRA whose B learns `ratio` times as fast as A, lr_B = ratio * lr_A."""

from typing import Any, ClassVar

import torch
from pydantic import PositiveFloat
from torch import nn

from peftbench.methods.base import AbstractFile, Range, Space, Targets
from peftbench.methods.linear import AbstractAdapterMethod, adapt, layers
from peftbench.methods.low_rank import LORA_FILE, Alpha, Dropout, LowRank, Rank


class LoRAPlus(AbstractAdapterMethod):
    """LoRA with two learning rates.

    B's group holds the matrices B and nothing else. The authors' code also puts every
    one-dimensional parameter there (nikhil-ghosh-berkeley/loraplus @ a0c44bfe, lora_plus.py), so
    that a head's bias learns faster than its weight.
    """

    version: ClassVar[int] = 1
    paper: ClassVar[str] = "arXiv:2402.12354"
    lr: ClassVar[float] = 3e-4
    space: ClassVar[Space] = {
        "train.lr": Range(1e-5, 1e-3, log=True),
        "train.head_lr": Range(1e-4, 1e-2, log=True),
        "args.ratio": Range(1, 64, log=True, least=1),  # 1 is LoRA
    }
    file: ClassVar[AbstractFile | None] = LORA_FILE

    rank: Rank = 8
    alpha: Alpha = 16.0
    dropout: Dropout = 0.0
    targets: Targets = "all-linear"
    ratio: PositiveFloat = 16.0
    """Learning rate of B relative to that of A, which is `train.lr`; 1: LoRA."""

    def attach(self, model: nn.Module, rng: torch.Generator) -> None:
        adapt(
            model,
            self.targets,
            lambda base: LowRank(
                base, rank=self.rank, alpha=self.alpha, dropout=self.dropout, rng=rng
            ),
        )

    def param_groups(
        self, parameters: list[nn.Parameter], model: nn.Module, lr: float
    ) -> list[dict[str, Any]]:
        fast = {id(layer.B) for layer in layers(model, LowRank)}
        return [
            {"params": [p for p in parameters if id(p) not in fast], "lr": lr},
            {"params": [p for p in parameters if id(p) in fast], "lr": lr * self.ratio},
        ]
