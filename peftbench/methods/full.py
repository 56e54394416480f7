"""Full fine-tuning: every parameter is trained."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from peftbench.methods.base import AbstractFile, AbstractMethod, rates
from peftbench.methods.linear import TransposedLinear, layers


class ModelFile(AbstractFile):
    """The whole model in the format of transformers: config.json, and every tensor of the state
    once, under its first name, in the layout of the published model."""

    weights = "model.safetensors"
    whole = True

    def tensors(self, model: nn.Module, head: Sequence[str]) -> dict[str, Tensor]:
        transposed = {f"{name}.weight" for name in layers(model, TransposedLinear)}
        # keep_vars: tied parameters are one object, of which the first name stays
        names = {id(t): name for name, t in reversed(model.state_dict(keep_vars=True).items())}
        return {
            name: tensor.t() if name in transposed else tensor
            for name, tensor in model.state_dict(keep_vars=True).items()
            if names[id(tensor)] == name
        }

    def texts(self, model: nn.Module, head: Sequence[str], base_model: str) -> dict[str, str]:
        from transformers import PreTrainedModel  # takes seconds

        assert isinstance(model, PreTrainedModel)
        texts = {"config.json": model.config.to_json_string()}
        if model.can_generate():  # the tokens that end an answer
            texts["generation_config.json"] = model.generation_config.to_json_string()
        return texts


class Full(AbstractMethod):
    """Full fine-tuning, the reference."""

    version = 1
    paper = "arXiv:1810.04805, section 3.2"
    lr = 1e-4
    space = rates(1e-5, 1e-3)
    file = ModelFile()
    trains_weights = True

    def attach(self, model: nn.Module, rng: torch.Generator) -> None:
        model.requires_grad_(True)
