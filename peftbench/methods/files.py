"""Trained models as files: adapters in the format of huggingface/peft, whole models in that of
transformers. Tensors only, no pickle.

What a method's file holds (`AbstractMethod.keeps`):
    adapter   adapter_config.json, adapter_model.safetensors   the adapted layers, and the head
    where there is one
    model     config.json, model.safetensors                   every tensor, tied ones once
    head      head.safetensors                                 the head; no tensor where there
    is none
Trained tensors are float32 even beside a bfloat16 base; VeRA's random pair, the head and whole
models have the dtype they are used in.
"""

import abc
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from peftbench.errors import InputError
from peftbench.methods.base import AbstractMethod, Keeps, freeze
from peftbench.methods.linear import AbstractAdapted, TransposedLinear, adapted_layers, replace
from peftbench.methods.low_rank import Dropout, LowRank
from peftbench.methods.vera import Projection, VectorBased
from peftbench.spec import validated

CONFIG = "adapter_config.json"
WEIGHTS: dict[Keeps, str] = {
    "adapter": "adapter_model.safetensors",
    "model": "model.safetensors",
    "head": "head.safetensors",
}
SHARED, LAYER = (
    "base_model.",
    "base_model.model.",
)  # before the names of what all layers share, and of a module's tensors
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
}  # in a file's order


class AbstractFile(BaseModel, abc.ABC):
    """What of an adapter_config.json decides how the layers compute. A subclass is one kind of
    adapter, and final."""

    model_config = ConfigDict(
        frozen=True, allow_inf_nan=False
    )  # further keys are peft's own business

    parts: ClassVar[tuple[str, ...]]  # names of a layer's tensors
    r: PositiveInt
    modules_to_save: tuple[str, ...] | None = None

    @abc.abstractmethod
    def build(self, linears: Sequence[nn.Linear]) -> list[AbstractAdapted]:
        """The adapted layers, whose values are still to be filled in."""


class LoraFile(AbstractFile):
    parts: ClassVar[tuple[str, ...]] = ("lora_A.weight", "lora_B.weight")
    lora_alpha: PositiveFloat
    lora_dropout: Dropout = 0.0
    use_rslora: Literal[False] = False
    alpha_pattern: dict[str, float] = Field({}, max_length=0)
    alora_invocation_tokens: None = None

    def build(self, linears: Sequence[nn.Linear]) -> list[AbstractAdapted]:
        rng = torch.Generator()
        return [
            LowRank(linear, rank=self.r, alpha=self.lora_alpha, dropout=self.lora_dropout, rng=rng)
            for linear in linears
        ]


class VeraFile(AbstractFile):
    parts: ClassVar[tuple[str, ...]] = ("vera_lambda_b", "vera_lambda_d")
    vera_dropout: Dropout = 0.0
    d_initial: PositiveFloat

    def build(self, linears: Sequence[nn.Linear]) -> list[AbstractAdapted]:
        projection = Projection(self.r, list(linears), torch.Generator())
        return [
            VectorBased(x, projection=projection, d_init=self.d_initial, dropout=self.vera_dropout)
            for x in linears
        ]


FILES: dict[str, type[AbstractFile]] = {
    LowRank.peft_type: LoraFile,
    VectorBased.peft_type: VeraFile,
}


def save(
    method: AbstractMethod,
    model: PreTrainedModel,
    head: Sequence[str],
    folder: Path,
    *,
    base_model: str,
) -> None:
    """Write the files of a trained model.

    head: names of the trained head's modules, empty for a language model. base_model: the name to
    load the plain model by.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if method.keeps == "adapter":
        text = json.dumps(
            _config(model, head, base_model), indent=2, sort_keys=True, allow_nan=False
        )
        (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
    elif method.keeps == "model":
        model.config.to_json_file(folder / "config.json")
    tensors = {
        key: tensor.detach().contiguous() for key, tensor in _tensors(method.keeps, model, head)
    }
    save_file(tensors, folder / WEIGHTS[method.keeps], _metadata(method.keeps, head))


def file_bytes(method: AbstractMethod, model: nn.Module, head: Sequence[str]) -> int:
    """Size of the tensors' file that `save` would write, to the byte; reads no value, so that a
    model on the meta device will do.

    The format (github huggingface/safetensors, README): 8 bytes, a JSON header padded to a multiple
    of 8, the data; tensors lie in the order of their dtype, the widest first, then of their name.
    """
    order = list(DTYPES)
    entries = sorted(
        (order.index(t.dtype), key, tuple(t.shape), t.nbytes)
        for key, t in _tensors(method.keeps, model, head)
    )
    header: dict[str, Any] = {"__metadata__": _metadata(method.keeps, head)}
    end = 0
    for dtype, key, shape, size in entries:
        header[key] = {
            "dtype": DTYPES[order[dtype]],
            "shape": shape,
            "data_offsets": [end, end + size],
        }
        end += size
    length = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + length + -length % 8 + end


def load(model: nn.Module, folder: Path) -> None:
    """Restore onto a plain model what `save` wrote (or peft, for plain LoRA and VeRA); nothing
    requires a gradient afterwards.

    Raises InputError that names the file and the key which is missing, unknown or does not fit the
    model.
    """
    found: list[Keeps] = [keeps for keeps, name in WEIGHTS.items() if (folder / name).is_file()]
    if len(found) != 1:
        raise InputError(
            f"{folder}: {'more than one' if found else 'none'} of {', '.join(WEIGHTS.values())} is there"
        )
    keeps = found[0]
    path = folder / WEIGHTS[keeps]
    try:
        with safe_open(path, framework="pt") as file:
            stored = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, the file is no dict
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a safetensors file: {error}") from error
    head: Sequence[str] = metadata.get("head", "").split()
    if keeps == "adapter":
        config = _read_config(folder / CONFIG)
        head = config.modules_to_save or ()
        _build(model, config, stored, path)
    modules = dict(model.named_modules())
    for name in head:
        if name not in modules:
            raise InputError(f"{path}: the head {name!r} is no module of the model")
    targets = dict(_tensors(keeps, model, head))
    for key, target in targets.items():
        if key not in stored:
            raise InputError(f"{path}: {key!r} is missing")
        if stored[key].shape != target.shape:
            raise InputError(
                f"{path}: {key!r} has the shape {tuple(stored[key].shape)}, the model needs {tuple(target.shape)}"
            )
    if unknown := stored.keys() - targets:
        raise InputError(f"{path}: the model has no place for {min(unknown)!r}")
    with torch.no_grad():
        for key, target in targets.items():
            target.copy_(stored[key])
    freeze(model)


def _tensors(keeps: Keeps, model: nn.Module, head: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
    """Key and tensor of everything that the file holds; the tensors are the model's own or made
    from them, one at a time."""
    if keeps == "model":
        yield from _model_tensors(model)
        return
    prefix = ""
    if keeps == "adapter":
        prefix = LAYER
        shared: dict[str, Tensor] = {}
        for name, layer in adapted_layers(model):
            shared = layer.shared()
            for part, tensor in layer.tensors().items():
                yield f"{LAYER}{name}.{part}", tensor
        for part, tensor in shared.items():
            yield SHARED + part, tensor
    for name in head:
        for part, tensor in model.get_submodule(name).state_dict().items():
            yield f"{prefix}{name}.{part}", tensor


def _model_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the model's state once, under its first name, in the layout of the published
    model."""
    transposed = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, TransposedLinear)
    }
    seen: set[int] = set()
    for name, tensor in model.state_dict(
        keep_vars=True
    ).items():  # keep_vars: tied parameters are one object
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield name, tensor.t() if name in transposed else tensor


def _metadata(keeps: Keeps, head: Sequence[str]) -> dict[str, str]:
    """The file's own note: transformers refuses a file without "format"; a head alone has no other
    place for its names."""
    return {"format": "pt"} | ({"head": " ".join(head)} if keeps == "head" else {})


def _config(model: nn.Module, head: Sequence[str], base_model: str) -> dict[str, Any]:
    """adapter_config.json: all that peft cannot guess; for the rest it takes its defaults, which is
    plain LoRA or VeRA."""
    layers = dict(adapted_layers(model))
    if not layers:
        raise ValueError("the model has no adapted layer (was it merged?)")
    first = next(iter(layers.values()))
    return first.settings() | {
        "peft_type": first.peft_type,
        "task_type": "SEQ_CLS" if head else "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "bias": "none",
        "target_modules": _targets(model, layers),
        "modules_to_save": list(head) or None,
        # Of a model that has both layouts peft sets this anew for each layer, with a warning.
        "fan_in_fan_out": any(
            isinstance(layer.base, TransposedLinear) for layer in layers.values()
        ),
    }


def _targets(model: nn.Module, layers: Mapping[str, AbstractAdapted]) -> list[str] | str:
    """The layers' full names; where peft, which compares the ends of names, would select more by
    them, an exact expression."""
    endings = tuple(f".{name}" for name in layers)
    if any(name.endswith(endings) and name not in layers for name, _ in model.named_modules()):
        return "|".join(map(re.escape, layers))
    return list(layers)


def _read_config(path: Path) -> AbstractFile:
    """An adapter_config.json. Raises InputError that names the key."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not JSON: {error}") from error
    if not isinstance(raw, dict) or raw.get("peft_type") not in [*FILES]:
        raise InputError(f"{path}: peft_type: must be one of {', '.join(FILES)}")
    return validated(FILES[raw["peft_type"]], raw, str(path))


def _build(
    model: nn.Module, config: AbstractFile, stored: Mapping[str, Tensor], path: Path
) -> None:
    """Replace the layers that the file has tensors for by adapted ones."""
    linears: dict[str, nn.Linear] = {}
    for name, module in model.named_modules():
        if any(f"{LAYER}{name}.{part}" in stored for part in config.parts):
            if not isinstance(module, nn.Linear):
                raise InputError(
                    f"{path}: {name!r} is no linear layer of the model but {type(module).__name__}"
                )
            linears[name] = module
    if not linears:
        raise InputError(f"{path}: no tensor of it belongs to a linear layer of the model")
    for name, layer in zip(linears, config.build(list(linears.values())), strict=True):
        replace(model, name, layer)
