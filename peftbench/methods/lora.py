"""LoRA: y = W x + (alpha / r) B A x, A and B trained."""

from typing import ClassVar

import torch
from torch import nn

from peftbench.methods.base import AbstractFile, Range, Space, Targets
from peftbench.methods.linear import AbstractAdapterMethod, adapt
from peftbench.methods.low_rank import LORA_FILE, Alpha, Dropout, LowRank, Rank


class LoRA(AbstractAdapterMethod):
    """Low-rank adaptation.

    alpha is not searched: under Adam, alpha times c with B's learning rate divided by c trains
    identically (see the invariance in tests/test_methods.py), so that lr and alpha together are lr
    and LoRA+'s ratio. In LoRA-FA alpha and lr are the same dimension, and in Delta-LoRA (K = 0)
    alpha and lambda are.
    """

    version: ClassVar[int] = 1
    paper: ClassVar[str] = "arXiv:2106.09685"
    lr: ClassVar[float] = 1e-3
    space: ClassVar[Space] = {
        "train.lr": Range(1e-4, 1e-2, log=True),
        "train.head_lr": Range(1e-4, 1e-2, log=True),
    }
    file: ClassVar[AbstractFile | None] = LORA_FILE

    rank: Rank = 8
    alpha: Alpha = 16.0
    dropout: Dropout = 0.0
    targets: Targets = "all-linear"

    def attach(self, model: nn.Module, rng: torch.Generator) -> None:
        adapt(
            model,
            self.targets,
            lambda base: LowRank(
                base, rank=self.rank, alpha=self.alpha, dropout=self.dropout, rng=rng
            ),
        )
