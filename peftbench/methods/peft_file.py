"""Files of huggingface/peft's own methods, as peft writes and reads them."""

from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from peftbench.errors import InputError, first_line
from peftbench.methods.adapter_file import CONFIG, LAYER, config_text, exact_targets
from peftbench.methods.base import AbstractFile, head_tensors
from peftbench.methods.peft_network import ADAPTER, peft_network, reasons, tuner_layers, wrap


class PeftFile(AbstractFile):
    """What peft saves of an adapter, and the head where there is one. Where initial values took
    their part out of the base's weights, an ordinary LoRA adapter of twice the rank, s (B A - B0
    A0): it opens on the plain model."""

    weights = "adapter_model.safetensors"

    def tensors(self, model: nn.Module, head: Sequence[str]) -> dict[str, Tensor]:
        from peft import get_peft_model_state_dict

        network = peft_network(model)
        if network.start:
            adapter = _differences(model, network.start)
        else:
            # said, since peft would ask the hub whether the vocabulary is the stored one
            adapter = get_peft_model_state_dict(network.wrapped, save_embedding_layers=False)
        return adapter | head_tensors(model, head, LAYER)

    def metadata(self, head: Sequence[str]) -> dict[str, str]:
        """Not every configuration of peft's has a place for the head's names."""
        return super().metadata(head) | ({"head": " ".join(head)} if head else {})

    def texts(self, model: nn.Module, head: Sequence[str], base_model: str) -> dict[str, str]:
        network = peft_network(model)
        config = network.wrapped.peft_config[ADAPTER].to_dict()
        if network.start:
            config |= _doubled(model)
        config["task_type"] = "CAUSAL_LM" if model.can_generate() else "SEQ_CLS"  # type: ignore[operator]
        if "modules_to_save" in config:
            config["modules_to_save"] = list(head) or None
        if "feedforward_modules" in config:  # which must be among the others, by the same names
            layers = tuner_layers(model)
            config["target_modules"] = exact_targets(model, layers)
            own = [name for name, layer in layers.items() if layer.is_feedforward]
            config["feedforward_modules"] = exact_targets(model, own)
        return config_text(_jsonable(config), base_model)

    def prepare(self, model: nn.Module, path: Path, stored: Mapping[str, Tensor]) -> Sequence[str]:
        from peft import PeftConfig

        config_file = path.parent / CONFIG
        try:
            config: Any = PeftConfig.from_pretrained(str(path.parent))
        # what peft raises on a damaged file differs
        except Exception as error:
            raise InputError(f"{config_file}: not a configuration of peft's: {error}") from error
        head = getattr(config, "modules_to_save", None) or ()
        if head:
            config.modules_to_save = None
        prompts = config.is_prompt_learning
        config.task_type = "CAUSAL_LM" if prompts else None
        network = wrap(model, config, torch.Generator())
        if prompts:
            from peftbench.methods.peft_prompts import prepend

            prepend(model, network.wrapped)
        return head

    def fill(
        self, model: nn.Module, path: Path, head: Sequence[str], stored: Mapping[str, Tensor]
    ) -> None:
        from peft import get_peft_model_state_dict, set_peft_model_state_dict

        wrapped = peft_network(model).wrapped
        own = head_tensors(model, head, LAYER)
        self.copy(path, own, {key: stored[key] for key in own.keys() & stored.keys()})
        adapter = {key: tensor for key, tensor in stored.items() if key not in own}
        try:
            with reasons(wrapped.peft_type.value):
                set_peft_model_state_dict(wrapped, dict(adapter))
        except InputError as error:
            raise InputError(f"{path}: {first_line(error)}") from error
        needed = get_peft_model_state_dict(wrapped, save_embedding_layers=False).keys()
        if missing := sorted(needed - adapter.keys() - own.keys()):
            raise InputError(f"{path}: {missing[0]!r} is missing")
        if unknown := sorted({*adapter} - needed):
            raise InputError(f"{path}: the model has no place for {unknown[0]!r}")


def _differences(model: nn.Module, start: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """s (B A - B0 A0) of every layer, as the matrices of a LoRA layer of twice the rank."""
    tensors: dict[str, Tensor] = {}
    for name, layer in tuner_layers(model).items():
        A, B = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
        A0, B0 = (part.to(A.device, A.dtype) for part in start[name])
        tensors[f"{LAYER}{name}.lora_A.weight"] = torch.cat([A, A0])
        tensors[f"{LAYER}{name}.lora_B.weight"] = torch.cat([B, -B0], dim=1)
    return tensors


def _doubled(model: nn.Module) -> dict[str, Any]:
    """Keys of the configuration of that LoRA adapter. Raises InputError where its layers have
    scales or ranks of their own."""
    layers = tuner_layers(model).values()
    sizes = {(layer.r[ADAPTER], layer.scaling[ADAPTER]) for layer in layers}
    if len(sizes) > 1 or any(layer.use_dora.get(ADAPTER) for layer in layers):
        raise InputError(
            "peft: an adapter whose initial values changed the model is saved as one of twice the "
            "rank, which DoRA, rank_pattern and alpha_pattern do not allow"
        )
    ((rank, scale),) = sizes
    return {
        "r": 2 * rank,
        "lora_alpha": 2 * rank * scale,
        "use_rslora": False,
        "init_lora_weights": True,
        **dict.fromkeys(("corda_config", "lora_ga_config", "loftq_config", "eva_config")),
    }


def _jsonable(value: Any) -> Any:
    match value:
        case dict():
            return {str(key): _jsonable(each) for key, each in value.items()}
        case Enum():
            return value.value
        case set() | frozenset():
            return sorted(value)
        case list() | tuple():
            return [_jsonable(each) for each in value]
        case _:
            return value
