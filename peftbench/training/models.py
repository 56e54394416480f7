"""Which model a name means, whether it can do a task, and how it is loaded."""

from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
)

from peftbench import assets
from peftbench.errors import InputError, first_line
from peftbench.methods.dropout import hasten
from peftbench.methods.linear import linear_layers, linearize
from peftbench.methods.quantized import Format, QuantizedLinear
from peftbench.spec import Base, Pooling, Precision, split_revision
from peftbench.tasks.base import TaskKind
from peftbench.training.base import AbstractModel
from peftbench.training.checkpoint import (
    check_classifier,
    check_tokenizer,
    check_whole,
    read_tokenizer,
    torn_file,
)
from peftbench.training.classifier import Classifier
from peftbench.training.language_model import LanguageModel
from peftbench.training.mean_pooling import mean_pooled
from peftbench.training.revisions import is_folder, unavailable

# What transformers raises on a config.json that it cannot use: values that contradict each other
# are the last one's.
UNREADABLE = (OSError, ValueError, StrictDataclassError)


def source(name: str) -> tuple[str, str]:
    """What transformers loads for a name: the folder of a packaged model, a local folder or a hub
    id; and the hub's revision, which says nothing of a folder."""
    if name in assets.MODELS:
        return str(assets.model_folder(name)), "main"
    if is_folder(name):
        return name, "main"
    hub_id, revision = split_revision(name)
    return hub_id, revision or "main"


def read_config(name: str, kind: TaskKind, labels: int, pooling: Pooling = "model") -> Any:
    """The model's configuration for a task. Raises InputError where there is none, or where the
    model cannot do a task of this kind, or not with this pooling."""
    place, revision = source(name)
    try:
        config = AutoConfig.from_pretrained(place, revision=revision, trust_remote_code=False)
    except UNREADABLE as error:
        if not is_folder(name):
            raise unavailable(name, error) from error
        raise InputError(
            f"model {name!r}: no readable config.json in this folder: {_reason(error)}"
        ) from error
    family, about = type(config), f"model {name!r} ({config.model_type})"
    causal = is_causal(config)
    if kind == "generation":
        if not causal:
            raise InputError(f"{about} is no causal language model, which generation tasks need")
        return config
    if pooling == "mean" and causal:
        raise InputError(
            f"{about} is a causal language model, whose last token alone has read the whole text: "
            'pooling = "mean" is for encoders, take pooling = "model"'
        )
    if family not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise InputError(f"{about} has no sequence classifier in transformers")
    config.num_labels = labels
    return config


def is_causal(config: Any) -> bool:
    """Whether it is the configuration of a causal language model."""
    family = type(config)
    return family in MODEL_FOR_CAUSAL_LM_MAPPING and family not in MODEL_FOR_MASKED_LM_MAPPING


def _reason(error: Exception) -> str:
    """Values that contradict each other: what raised the error that is raised says which."""
    strict = isinstance(error, StrictDataclassError)
    return first_line(error.__cause__ if strict and error.__cause__ else error)


def network_type(kind: TaskKind, config: Any, pooling: Pooling) -> Any:
    """The class that makes the network for a task."""
    if kind == "generation":
        return AutoModelForCausalLM
    if pooling == "mean":
        own: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
        return mean_pooled(own)
    return AutoModelForSequenceClassification


def skeleton(name: str, kind: TaskKind, labels: int, pooling: Pooling = "model") -> Any:
    """The network on the meta device, whose structure and shapes are those of the stored weights,
    with its tokenizer checked. Raises InputError as read_config and load do."""
    try:
        net, _ = _network(name, kind, labels, pooling, device_map="meta")
    except RuntimeError as error:  # nothing is allocated here: several tensors do not make one
        raise InputError(
            f"model {name!r}: its stored weights do not fit its configuration: {first_line(error)}"
        ) from error
    check_tokenizer(read_tokenizer(name, *source(name)), net, name)
    return net


def load(
    name: str,
    kind: TaskKind,
    labels: int,
    pooling: Pooling = "model",
    base: Base = "plain",
    *,
    device: torch.device,
    dtype: torch.dtype,
    max_length: int,
    precision: Precision = "float32",
) -> AbstractModel:
    """The model on its device, whole, tensor by tensor: torch's global generator gives the initial
    values of what is new to the task, and everything else is stored. dtype: of all weights.
    precision: in which it is to compute. Raises InputError that names what is not stored."""
    # layers that are to be quantised come to the device one after the other
    straight = device.type == "cuda" and base == "plain"
    options = {"device_map": {"": device}} if straight else {}
    net, new = _network(name, kind, labels, pooling, dtype=dtype, **options)
    if base != "plain":
        quantize(net, base, device)
    tokenizer = read_tokenizer(name, *source(name))
    check_tokenizer(tokenizer, net, name)
    model_type = LanguageModel if kind == "generation" else Classifier
    return model_type(net.to(device), tokenizer, device, max_length, new, precision)


def quantize(net: nn.Module, base: Format, device: torch.device) -> None:
    """Put quantised layers on the device in the places of the trunk's linear layers, one after the
    other, so that one plain weight at a time is there beside them. The head and the embeddings stay
    as they are."""
    for name in list(linear_layers(net, "all-linear")):
        linear: Any = net.get_submodule(name)
        if linear.weight.device.type != device.type:
            linear = linear.to(device)
        net.set_submodule(name, QuantizedLinear(linear, base))
        del linear


def _network(
    name: str, kind: TaskKind, labels: int, pooling: Pooling, **options: Any
) -> tuple[Any, frozenset[str]]:
    """The network, and the names of those of its parameters that are not stored. options: of
    from_pretrained."""
    config, (place, revision) = read_config(name, kind, labels, pooling), source(name)
    check_classifier(name, kind, config)
    try:
        net, report = network_type(kind, config, pooling).from_pretrained(
            place,
            config=config,
            revision=revision,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # of a head for other labels; others are errors
            **options,
        )
    except OSError as error:
        raise InputError(f"model {name!r}: {first_line(error)}") from error
    except SafetensorError as error:
        raise InputError(f"model {name!r}: {torn_file(place) or place}: {error}") from error
    new = check_whole(name, net, report)
    linearize(net)
    hasten(net)
    return net, new
