"""Adapters in the format of huggingface/peft: adapter_config.json and adapter_model.safetensors."""

import abc
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, PositiveInt
from torch import Tensor, nn

from peftbench.errors import InputError
from peftbench.methods.base import AbstractFile, head_tensors
from peftbench.methods.linear import AbstractAdapted, TransposedLinear, layers, replace
from peftbench.methods.quantized import layout
from peftbench.spec import is_commit, split_revision, validated

CONFIG = "adapter_config.json"
SHARED = "base_model."  # before the names of tensors that all layers share
LAYER = "base_model.model."  # before the names of a module's tensors


class AbstractSettings(BaseModel, abc.ABC):
    """What of an adapter_config.json decides how the layers compute. A subclass is one of peft's
    kinds of adapter, and final."""

    # further keys are peft's own business
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    peft_type: ClassVar[str]  # peft's name of the kind
    parts: ClassVar[tuple[str, ...]]  # names of a layer's tensors
    r: PositiveInt
    modules_to_save: tuple[str, ...] | None = None

    @abc.abstractmethod
    def build(self, linears: Sequence[nn.Linear]) -> Sequence[AbstractAdapted]:
        """The adapted layers, whose values are still to be filled in."""


class AdapterFile(AbstractFile):
    """The adapted layers, and the head where there is one. Trained tensors are float32 even beside
    a bfloat16 base; VeRA's random pair and the head have the dtype they are used in."""

    weights = "adapter_model.safetensors"

    def __init__(self, settings: type[AbstractSettings]) -> None:
        self.settings = settings

    def tensors(self, model: nn.Module, head: Sequence[str]) -> dict[str, Tensor]:
        tensors = head_tensors(model, head, LAYER)
        for name, layer in layers(model, AbstractAdapted).items():
            tensors |= {f"{LAYER}{name}.{part}": t for part, t in layer.tensors().items()}
            tensors |= {SHARED + part: t for part, t in layer.shared().items()}
        return tensors

    def texts(self, model: nn.Module, head: Sequence[str], base_model: str) -> dict[str, str]:
        """All that peft cannot guess; for the rest it takes its defaults, which is plain LoRA or
        VeRA."""
        adapted = layers(model, AbstractAdapted)
        if not adapted:
            raise ValueError("the model has no adapted layer (was it merged?)")
        config = next(iter(adapted.values())).settings() | {
            "peft_type": self.settings.peft_type,
            "task_type": "SEQ_CLS" if head else "CAUSAL_LM",
            "bias": "none",
            "target_modules": exact_targets(model, adapted),
            "modules_to_save": list(head) or None,
            # Of a model that has both layouts peft sets this anew for each layer, with a warning.
            "fan_in_fan_out": any(
                issubclass(layout(layer.base), TransposedLinear) for layer in adapted.values()
            ),
        }
        return config_text(config, base_model)

    def prepare(self, model: nn.Module, path: Path, stored: Mapping[str, Tensor]) -> Sequence[str]:
        settings = self._read(path.parent / CONFIG)
        linears: dict[str, nn.Linear] = {}
        for name, module in model.named_modules():
            if any(f"{LAYER}{name}.{part}" in stored for part in settings.parts):
                if not isinstance(module, nn.Linear):
                    raise InputError(
                        f"{path}: {name!r} is no linear layer of the model "
                        f"but {type(module).__name__}"
                    )
                linears[name] = module
        if not linears:
            raise InputError(f"{path}: no tensor of it belongs to a linear layer of the model")
        own = [t for key, t in stored.items() if key.endswith(settings.parts)]
        if settings.r > max(size for tensor in own for size in tensor.shape):
            raise InputError(
                f"{path.parent / CONFIG}: r: the tensors in {path.name} have a smaller rank "
                f"(given: {settings.r})"
            )
        built = settings.build(list(linears.values()))
        replace(model, dict(zip(linears, built, strict=True)))
        return settings.modules_to_save or ()

    def _read(self, path: Path) -> AbstractSettings:
        """An adapter_config.json. Raises InputError that names the key."""
        try:
            raw: Any = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(f"{path}: no such file") from None
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: not JSON: {error}") from error
        if not isinstance(raw, dict) or raw.get("peft_type") != self.settings.peft_type:
            raise InputError(f"{path}: peft_type: must be {self.settings.peft_type}")
        return validated(self.settings, raw, str(path))


def config_text(config: Mapping[str, Any], base_model: str) -> dict[str, str]:
    """The adapter_config.json of a trained adapter, with the name to load the plain model by."""
    name, commit = split_revision(base_model)
    of_hub = is_commit(commit)
    full = {
        **config,
        "base_model_name_or_path": name if of_hub else base_model,
        "revision": commit if of_hub else None,
        "inference_mode": True,
    }
    return {CONFIG: json.dumps(full, indent=2, sort_keys=True, allow_nan=False) + "\n"}


def exact_targets(model: nn.Module, names: Iterable[str]) -> list[str] | str:
    """The modules' full names; where peft, which compares the ends of names, would select more by
    them, an exact expression."""
    names = list(names)
    endings = tuple(f".{name}" for name in names)
    if any(name.endswith(endings) and name not in names for name, _ in model.named_modules()):
        return "|".join(map(re.escape, names))
    return names
