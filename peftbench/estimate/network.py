"""A network from its configuration alone, with as many layers as are asked for."""

import copy
from typing import Any

import transformers
from torch import nn
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
)

from peftbench.errors import InputError, unknown
from peftbench.estimate.setting import Setting
from peftbench.methods import METHODS
from peftbench.methods.dropout import hasten
from peftbench.methods.linear import linearize
from peftbench.shapes import SHAPES, known_shape
from peftbench.tasks.base import TaskKind
from peftbench.training.checkpoint import check_classifier, check_whole
from peftbench.training.fine_tuning import loaded_dtype
from peftbench.training.models import UNREADABLE, is_causal, network_type, read_config, source
from peftbench.training.revisions import is_folder


def configuration(setting: Setting) -> tuple[Any, TaskKind]:
    """The model's configuration, and what it is trained for: a causal language model to generate,
    another one to classify. Raises InputError."""
    shape = known_shape(setting.model)
    if shape is not None:
        config: Any = transformers.AutoConfig.for_model(shape.family, **shape.sizes)
        config.name_or_path = shape.name
    else:
        config = _read(setting.model)
    kind = _kind(setting.model, config)
    if kind == "classification":
        check_classifier(setting.model, kind, config)
        config.num_labels = setting.labels
    return config, kind


def _read(name: str) -> Any:
    """Of a folder, a packaged model or one at the hub."""
    place, revision = source(name)
    try:
        return transformers.AutoConfig.from_pretrained(
            place, revision=revision, trust_remote_code=False
        )
    except UNREADABLE as error:
        if is_folder(name):
            # says what is wrong with the file
            return read_config(name, "generation", 1)
        known = unknown("model", name, SHAPES)
        raise InputError(f"{known}; no folder of this name, nor at the model hub") from error


def _kind(name: str, config: Any) -> TaskKind:
    if is_causal(config):
        return "generation"
    if type(config) in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        return "classification"
    raise InputError(
        f"model {name!r} ({config.model_type}) is no language model and no encoder of text"
    )


def layers_of(config: Any) -> int | None:
    """How many transformer blocks a configuration asks for; None: it does not say."""
    number = getattr(config.get_text_config(), "num_hidden_layers", None)
    return number if isinstance(number, int) else None


def with_layers(config: Any, layers: int) -> Any:
    """The same with the first `layers` of its transformer blocks."""
    shorter = copy.deepcopy(config)
    text = shorter.get_text_config()
    whole = text.num_hidden_layers
    text.num_hidden_layers = layers
    for name, value in vars(text).items():  # what it says of each layer
        if isinstance(value, list) and len(value) == whole:
            setattr(text, name, value[:layers])
    return shorter


def all_kinds_of_layer(config: Any) -> int:
    """How many of the first layers have one of each kind that the configuration names."""
    kinds = getattr(config.get_text_config(), "layer_types", None) or [""]
    return max(kinds.index(kind) for kind in set(kinds)) + 1


def network(setting: Setting, config: Any, kind: TaskKind) -> Any:
    """The network as training loads it, on whatever device tensors are made at the moment, with the
    head that transformers' networks have: of a classifier all of it new."""
    auto = network_type(kind, config, setting.pooling)
    dtype = loaded_dtype(setting.precision, METHODS[setting.method].of(setting.args))
    if kind == "generation" or setting.pooling == "model":
        net: Any = auto.from_config(config, dtype=dtype, trust_remote_code=False)
    else:
        net = auto._from_config(config, dtype=dtype)
    outside = _outside_the_trunk(net) if kind == "classification" else []
    report = {"missing_keys": outside, "mismatched_keys": [], "unexpected_keys": []}
    check_whole(setting.model, net, report)
    linearize(net)
    hasten(net)
    return net


def _outside_the_trunk(net: Any) -> list[str]:
    trunk: nn.Module = net.base_model
    inside = {id(parameter) for parameter in trunk.parameters()}
    return [name for name, p in net.named_parameters() if id(p) not in inside]
