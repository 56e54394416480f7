"""Which model a name means, whether it fits a task, and how it is loaded."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
)

from peftbench import assets
from peftbench.errors import InputError
from peftbench.methods.linear import linearize
from peftbench.tasks.base import TaskKind
from peftbench.training.base import AbstractModel
from peftbench.training.classifier import Classifier
from peftbench.training.language_model import LanguageModel


def source(name: str) -> str:
    """What transformers loads for a name: the folder of a packaged model, or the local folder or
    hub id as given."""
    return str(assets.model_folder(name)) if name in assets.MODELS else name


def read_config(name: str, kind: TaskKind, labels: int) -> Any:
    """The model's configuration for a task. Raises InputError where there is none, or where the
    model cannot do a task of this kind."""
    try:
        config = AutoConfig.from_pretrained(source(name), trust_remote_code=False)
    except (OSError, ValueError) as error:
        known = ", ".join(sorted(assets.MODELS))
        what = (
            "no readable config.json in this folder"
            if Path(name).is_dir()
            else "not a local folder, and not available from the hub"
        )
        raise InputError(
            f"model {name!r}: {what} (packaged models: {known}): {str(error).splitlines()[0]}"
        ) from error
    family, about = type(config), f"model {name!r} ({config.model_type})"
    if kind == "generation":
        if family not in MODEL_FOR_CAUSAL_LM_MAPPING or family in MODEL_FOR_MASKED_LM_MAPPING:
            raise InputError(f"{about} is no causal language model, which generation tasks need")
        return config
    if family not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise InputError(f"{about} has no sequence classifier in transformers")
    config.num_labels = labels
    return config


def network_type(kind: TaskKind) -> Any:
    """The class of transformers that makes the network for a task."""
    generates = kind == "generation"
    return AutoModelForCausalLM if generates else AutoModelForSequenceClassification


def skeleton(name: str, kind: TaskKind, labels: int) -> Any:
    """The network on the meta device: its structure without weights. Raises InputError as
    read_config does."""
    config = read_config(name, kind, labels)
    with torch.device("meta"):
        net = network_type(kind).from_config(config)
    linearize(net)
    return net


def load(
    name: str,
    kind: TaskKind,
    labels: int,
    *,
    device: torch.device,
    dtype: torch.dtype,
    max_length: int,
) -> AbstractModel:
    """The model on its device. A classification head is new: torch's global generator gives its
    initial values."""
    config, place = read_config(name, kind, labels), source(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
        net = network_type(kind).from_pretrained(
            place, config=config, dtype=dtype, use_safetensors=True, trust_remote_code=False
        )
    except OSError as error:
        raise InputError(f"model {name!r}: {str(error).splitlines()[0]}") from error
    linearize(net)
    model_type = LanguageModel if kind == "generation" else Classifier
    return model_type(net.to(device), tokenizer, device, max_length)
