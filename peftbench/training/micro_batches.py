"""`train.micro_batch = "auto"`: how many examples fit on the device at a time."""

import dataclasses

import torch

from peftbench.training.fine_tuning import FineTuning, accumulate
from peftbench.training.footprint import unchanged
from peftbench.training.generation import lacks_memory
from peftbench.training.transformer_blocks import as_trained


def fitted(tuning: FineTuning) -> FineTuning:
    """The same run with micro-batches that fit: as the spec says, or for "auto" the whole batch
    halved until a step on the largest batch has the memory that it takes, in the form that is not
    compiled. That step changes nothing. Raises what the step raises where one example at a time
    does not fit."""
    optimizer = tuning.optimizer
    if tuning.spec.train.micro_batch != "auto" or optimizer is None:
        return tuning
    while not _fits(tuning, optimizer):
        if tuning.model.device.type == "cuda":
            torch.cuda.empty_cache()
        tuning = dataclasses.replace(tuning, micro_batch=tuning.micro_batch // 2)
    return tuning


def _fits(tuning: FineTuning, optimizer: torch.optim.Optimizer) -> bool:
    net, spec = tuning.model.net, tuning.spec.train
    try:
        with unchanged(net, optimizer), as_trained(net, checkpointing=spec.checkpointing):
            net.train()
            accumulate(tuning.losses(tuning.largest_batch()))
            tuning.method.update(net, optimizer, 1)
    except (RuntimeError, MemoryError) as error:
        if tuning.micro_batch == 1 or not lacks_memory(error):
            raise
        return False
    return True
