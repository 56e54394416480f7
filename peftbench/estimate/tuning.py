"""A run whose model is made from its configuration, without stored weights and texts."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch

from peftbench.methods import METHODS
from peftbench.methods.quantized import parameter_count
from peftbench.spec import RunSpec
from peftbench.tasks.base import TaskKind
from peftbench.training import fine_tuning
from peftbench.training.base import AbstractModel, Item
from peftbench.training.classifier import Classifier
from peftbench.training.fine_tuning import EncodedSplit, FineTuning
from peftbench.training.language_model import LanguageModel

# What is asked of a tokenizer beside its tokens.
TOKENIZER = SimpleNamespace(
    pad_token_id=0,
    eos_token_id=0,
    model_input_names=["input_ids", "token_type_ids", "attention_mask"],
)


def model_without_texts(spec: RunSpec, net: Any, kind: TaskKind) -> AbstractModel:
    """net: the network, in the dtype in which it is loaded, on the base that the run has, with its
    `task_head`."""
    model_type = LanguageModel if kind == "generation" else Classifier
    place = torch.device("cpu")
    return model_type(net, TOKENIZER, place, spec.data.max_length, precision=spec.train.precision)


def tuning_without_texts(
    spec: RunSpec, model: AbstractModel, lengths: Sequence[int], supervised: int
) -> FineTuning:
    """What set_up makes of a run with one batch.

    lengths: tokens of the batch's items, of which `supervised` at the end are a language model's
    answer.
    """
    items = [
        Item([1] * length, False, types=[0] * length, supervised=supervised) for length in lengths
    ]
    method = METHODS[spec.method].build(spec.args)
    total = parameter_count(model.net)
    optimizer = fine_tuning.attach(method, model, spec)
    task: Any = None  # of which a step asks nothing
    return FineTuning(
        spec=spec,
        task=task,
        method=method,
        model=model,
        optimizer=optimizer,
        data={"train": EncodedSplit([], items)},
        batches=[list(range(len(items)))],
        micro_batch=fine_tuning.micro_batch(spec.train, len(items)),
        shots=[],
        total_params=total,
    )
