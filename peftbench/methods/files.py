"""Trained models as files: tensors and JSON, no pickle. What is in them is the method's own."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from peftbench.errors import InputError
from peftbench.methods.base import AbstractMethod

# safetensors' names of dtypes, in the order in which tensors lie in a file
DTYPES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}

# A regression whose head has no bias answers with the network's output plus this number. It stands
# in the network's configuration, and in a file of its own: adapters' formats have no place for it.
OFFSET = "answer_offset"
OFFSET_FILE = "answer_offset.json"

# The module of a classifier whose head reads the mean of all tokens; transformers has no such head.
MEAN_HEAD = "mean_head"
POOLING = {
    "pooling": "mean",
    "head": MEAN_HEAD,
    "note": "The head is one linear layer on the mean of the last hidden states over the tokens of "
    "attention_mask. All of it opens on the network that "
    'peftbench.training.models.load(..., pooling="mean") makes. transformers\' own classifier has '
    "no such head: peft refuses an adapter there (it misses 'classifier.weight'), and opens the "
    "adapted layers alone with a PeftConfig whose task_type and modules_to_save are None.",
}
POOLING_FILE = "pooling.json"


def save(
    method: AbstractMethod,
    model: nn.Module,
    head: Sequence[str],
    folder: Path,
    *,
    base_model: str,
    tokenizer: Any = None,
) -> None:
    """Write the files of a trained model; none where the method has no file.

    head: names of the trained head's modules, empty for a language model. base_model: the name to
    load the plain model by. tokenizer: written beside a whole model, which is loaded by its folder.
    """
    if method.file is None:
        return
    texts = method.file.texts(model, head, base_model)
    tensors = method.file.tensors(model, head)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    save_file(_apart(tensors), folder / method.file.weights, method.file.metadata(head))
    if method.file.whole and tokenizer is not None:
        tokenizer.save_pretrained(folder)
    offset = getattr(getattr(model, "config", None), OFFSET, None)
    if offset is not None:
        text = {OFFSET: offset, "note": f"The answer is the model's output plus {OFFSET}."}
        _write(folder / OFFSET_FILE, text)
    if MEAN_HEAD in head:
        _write(folder / POOLING_FILE, POOLING)


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as a file takes them: contiguous, none in the memory of another."""
    apart: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        place = tensor.untyped_storage().data_ptr()
        apart[key] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return apart


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def file_bytes(method: AbstractMethod, model: nn.Module, head: Sequence[str]) -> int | None:
    """Size of the tensors' file that `save` would write, to the byte; reads no value, so that a
    model on the meta device will do. None: the method has no file.

    The format (github huggingface/safetensors, README): 8 bytes, a JSON header padded to a multiple
    of 8, the data; tensors lie in the order of their dtype, the widest first, then of their name.
    """
    if method.file is None:
        return None
    order = list(DTYPES)
    tensors = method.file.tensors(model, head)
    header: dict[str, Any] = {"__metadata__": method.file.metadata(head)}
    end = 0
    for key in sorted(tensors, key=lambda key: (order.index(tensors[key].dtype), key)):
        start, end = end, end + tensors[key].nbytes
        header[key] = {
            "dtype": DTYPES[tensors[key].dtype],
            "shape": tensors[key].shape,
            "data_offsets": [start, end],
        }
    length = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + length + -length % 8 + end


def load(method: AbstractMethod, model: nn.Module, folder: Path) -> None:
    """Restore onto a plain model what `save` wrote (or peft, for LoRA and VeRA); nothing requires a
    gradient afterwards.

    Raises InputError that names the file and the key which is missing, unknown or does not fit the
    model.
    """
    if method.file is None:
        raise InputError(f"{folder}: {type(method).__name__} saves no files")
    path = folder / method.file.weights
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            stored = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, no dict
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a safetensors file: {error}") from error
    head = method.file.prepare(model, path, stored) or metadata.get("head", "").split()
    if missing := set(head) - dict(model.named_modules()).keys():
        raise InputError(f"{path}: the head {min(missing)!r} is no module of the model")
    method.file.fill(model, path, head, stored)
    model.requires_grad_(False)
    if (folder / OFFSET_FILE).is_file():
        _restore_offset(model, folder / OFFSET_FILE)


def _restore_offset(model: Any, path: Path) -> None:
    try:
        offset = json.loads(path.read_text(encoding="utf-8"))[OFFSET]
        setattr(model.config, OFFSET, float(offset))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: must be an object with a number as {OFFSET!r}") from error
