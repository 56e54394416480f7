"""A run whose model is made from its configuration, without stored weights and texts: for fake
tensors, which have no memory behind them."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch

from peftbench.methods import METHODS
from peftbench.methods.quantized import parameter_count
from peftbench.spec import RunSpec
from peftbench.training import fine_tuning
from peftbench.training.base import Item
from peftbench.training.fine_tuning import EncodedSplit, FineTuning
from peftbench.training.language_model import LanguageModel


def tuning_without_weights(
    spec: RunSpec, net: Any, lengths: Sequence[int], supervised: int
) -> FineTuning:
    """What set_up makes of a run of a language model with one batch.

    net: the network, in the dtype in which it is loaded and on the base that the run has.
    lengths: tokens of the batch's items, of which `supervised` at the end are the answer.
    """
    net.task_head = ()  # as a loaded language model says
    tokenizer = SimpleNamespace(pad_token_id=0, eos_token_id=0)
    model = LanguageModel(
        net,
        tokenizer,
        torch.device("cpu"),
        spec.data.max_length,
        precision=spec.train.precision,
    )
    items = [Item([1] * length, False, supervised=supervised) for length in lengths]
    method = METHODS[spec.method].build(spec.args)
    total = parameter_count(net)
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
