"""The frozen model: nothing is trained but, for classification, the head. The floor."""

from typing import ClassVar

import torch
from torch import nn

from peftbench.methods.base import AbstractMethod, Keeps, Range, Space, freeze


class Frozen(AbstractMethod):
    """The model as it is."""

    version: ClassVar[int] = 1
    paper: ClassVar[str] = "the model as published (linear probing for classification)"
    lr: ClassVar[float] = 1e-3  # trains nothing with it
    space: ClassVar[Space] = {"train.head_lr": Range(1e-4, 1e-2, log=True)}
    keeps: ClassVar[Keeps] = "head"

    def attach(self, model: nn.Module, rng: torch.Generator) -> None:
        freeze(model)
