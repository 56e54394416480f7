"""The frozen model: nothing is trained but, for classification, the head. The lower bound."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from peftbench.methods.base import HEAD_RATE, AbstractFile, AbstractMethod, head_tensors


class HeadFile(AbstractFile):
    """The head alone; no tensor where there is none. The metadata hold its names."""

    weights = "head.safetensors"

    def tensors(self, model: nn.Module, head: Sequence[str]) -> dict[str, Tensor]:
        return head_tensors(model, head)

    def metadata(self, head: Sequence[str]) -> dict[str, str]:
        return super().metadata(head) | {"head": " ".join(head)}


class Frozen(AbstractMethod):
    """The model as it is."""

    version = 1
    paper = "the model as published (linear probing for classification)"
    lr = 1e-3  # trains nothing with it
    space = HEAD_RATE
    file = HeadFile()

    def attach(self, model: nn.Module, rng: torch.Generator) -> None:
        model.requires_grad_(False)

    def plain(self, model: nn.Module) -> Mapping[str, nn.Module]:
        return {}
