"""Full fine-tuning: every parameter is trained."""

from typing import ClassVar

import torch
from torch import nn

from peftbench.methods.base import AbstractMethod, Keeps, Range, Space


class Full(AbstractMethod):
    """Full fine-tuning, the reference."""

    version: ClassVar[int] = 1
    paper: ClassVar[str] = "arXiv:1810.04805, section 3.2"
    lr: ClassVar[float] = 1e-4
    space: ClassVar[Space] = {
        "train.lr": Range(1e-5, 1e-3, log=True),
        "train.head_lr": Range(1e-4, 1e-2, log=True),
    }
    keeps: ClassVar[Keeps] = "model"

    def attach(self, model: nn.Module, rng: torch.Generator) -> None:
        for parameter in model.parameters():
            parameter.requires_grad_(True)
