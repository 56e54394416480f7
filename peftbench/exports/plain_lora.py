"""A saved adapter as an ordinary LoRA file, exactly: tensors in, tensors out, without the weights
of the model."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from peftbench.errors import InputError
from peftbench.methods.adapter_file import CONFIG, LAYER, SHARED
from peftbench.methods.files import OFFSET_FILE, POOLING_FILE
from peftbench.methods.low_rank import LORA_FILE

BESIDE = (OFFSET_FILE, POOLING_FILE)  # what a head's answer also needs
# What makes another layer of LoRA's, or an adapter that changes more than one product.
NOT_PLAIN = ("use_dora", "use_qalora", "use_bdlora", "lora_bias", "alora_invocation_tokens")
ADALORA_ONLY = {
    *("beta1", "beta2", "deltaT", "init_r", "orth_reg_weight", "rank_pattern", "target_r"),
    *("tfinal", "tinit", "total_step"),
}
B, D = ".vera_lambda_b", ".vera_lambda_d"  # a VeRA layer's vectors


@dataclass(frozen=True)
class AdapterTensors:
    """What an adapter's two files hold, in the format of peft."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]

    def files(self) -> dict[str, bytes]:
        """The two files."""
        text = json.dumps(self.config, indent=2, sort_keys=True, allow_nan=False) + "\n"
        contiguous = {key: tensor.contiguous() for key, tensor in self.tensors.items()}
        return {
            CONFIG: text.encode(),
            LORA_FILE.weights: save(contiguous, {"format": "pt"}),
        }


Widths = Callable[[], Mapping[str, int]]  # of each linear layer of the model, its inputs


def plain_lora(folder: Path, widths: Widths) -> dict[str, bytes]:
    """The files of the LoRA adapter that computes what the adapter in `folder` computes. widths:
    asked where the adapter does not say how wide its layers are. Raises InputError that names the
    file, or what its kind cannot be made into."""
    path = folder / CONFIG
    if not path.is_file():
        raise InputError(
            f"{path}: no such file: runs leave adapters with `peftbench run --adapters DIR`"
        )
    read = _read(folder)
    kind = read.config.get("peft_type")
    if kind not in FORMS:
        known = ", ".join(FORMS)
        raise InputError(
            f"{path}: peft_type {kind!r} is no LoRA, nor made into one (known: {known})"
        )
    files = FORMS[kind](read, widths).files()
    beside = {name: folder / name for name in BESIDE if (folder / name).is_file()}
    return files | {name: file.read_bytes() for name, file in beside.items()}


def _read(folder: Path) -> AdapterTensors:
    path = folder / LORA_FILE.weights
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, no dict
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{folder}: no adapter that can be read: {error}") from error
    if not isinstance(config, dict):
        raise InputError(f"{folder / CONFIG}: not an object")
    return AdapterTensors(config, tensors)


def _of_lora(adapter: AdapterTensors, widths: Widths) -> AdapterTensors:
    """LoRA, LoRA+, LoRA-FA, and Delta-LoRA, whose file is a LoRA of rank r or 2r, as they are; of
    peft's variants rsLoRA, whose scale is alpha / sqrt(r), with another alpha."""
    config = adapter.config
    if more := [key for key in NOT_PLAIN if config.get(key)]:
        raise InputError(f"an adapter of LoRA with {more[0]} is no plain LoRA, nor made into one")
    if not config.get("use_rslora"):
        return adapter
    alpha = config["lora_alpha"] * config["r"] ** 0.5
    return replace(adapter, config=config | {"use_rslora": False, "lora_alpha": alpha})


def _of_adalora(adapter: AdapterTensors, widths: Widths) -> AdapterTensors:
    """W + s B diag(E) A, s = alpha / (initial rank + 1e-5): A' = s diag(E) A with a scale of 1, and
    rows of zeros where a layer kept a smaller rank than another (peft, tuners/adalora/layer.py)."""
    config, tensors = adapter.config, dict(adapter.tensors)
    scale = config["lora_alpha"] / (config["init_r"] + 1e-5)
    layers = [key.removesuffix(".lora_E") for key in tensors if key.endswith(".lora_E")]
    rank = max((tensors[f"{layer}.lora_A"].shape[0] for layer in layers), default=1)
    for layer in layers:
        A, B, E = (tensors.pop(f"{layer}.lora_{part}").float() for part in "ABE")
        missing = rank - len(A)
        tensors[f"{layer}.lora_A.weight"] = F.pad(scale * E * A, (0, 0, 0, missing))  # (r, in)
        tensors[f"{layer}.lora_B.weight"] = F.pad(B, (0, missing))  # (out, r)
    plain = {key: value for key, value in config.items() if key not in ADALORA_ONLY}
    plain |= {"peft_type": "LORA", "r": max(rank, 1), "lora_alpha": max(rank, 1)}
    return AdapterTensors(plain, tensors)


def _of_vera(adapter: AdapterTensors, widths: Widths) -> AdapterTensors:
    """A' = diag(d) A, B' = diag(b) B with the layer's columns of A and rows of B: the same rank,
    and a scale of 1, alpha = r."""
    config, tensors = adapter.config, dict(adapter.tensors)
    try:
        rank, shared = config["r"], [tensors.pop(f"{SHARED}vera_{part}") for part in "AB"]
    except KeyError as error:
        raise InputError(f"adapter of VeRA: {error} is missing") from error
    A, B_all = (tensor.float() for tensor in shared)  # (r, largest in), (largest out, r)
    known = widths()
    for key in [key for key in tensors if key.endswith(B)]:
        layer = key.removesuffix(B)
        b, d = tensors.pop(key).float(), tensors.pop(layer + D).float()  # (out,), (r,)
        name = layer.removeprefix(LAYER)
        if name not in known:
            raise InputError(f"adapter of VeRA: the model has no linear layer {name!r}")
        tensors[f"{layer}.lora_A.weight"] = d[:, None] * A[:, : known[name]]  # (r, in)
        tensors[f"{layer}.lora_B.weight"] = b[:, None] * B_all[: len(b)]  # (out, r)
    own = {"vera_dropout", "d_initial", "save_projection", "projection_prng_key"}
    plain = {key: value for key, value in config.items() if key not in own}
    plain |= {"peft_type": "LORA", "lora_alpha": rank, "lora_dropout": config["vera_dropout"]}
    return AdapterTensors(plain, tensors)


# By peft's name of the kind of adapter.
FORMS: dict[str, Callable[[AdapterTensors, Widths], AdapterTensors]] = {
    "LORA": _of_lora,
    "ADALORA": _of_adalora,
    "VERA": _of_vera,
}
