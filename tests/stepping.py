"""Fine-tunings of every method, set up once, to take the same steps with in different forms."""

import dataclasses
import functools
from typing import Any

import torch
from test_methods import ARMS
from test_run import CPU, spec
from torch import nn

from peftbench.methods import METHODS
from peftbench.spec import RunSpec
from peftbench.training.fine_tuning import FineTuning, micro_batch, set_up
from peftbench.training.footprint import unchanged
from peftbench.training.loop import TrainingLog, train
from peftbench.training.run import never

Arm = tuple[str, dict[str, Any]]
Weights = dict[str, torch.Tensor]
LORA: Arm = ("lora", {"rank": 3})


def wanted(model: str, task: str, arm: Arm = LORA, **train: Any) -> RunSpec:
    """Eight examples of unlike lengths a step, and a clip that bites."""
    settings = {"steps": 20, "batch_size": 8, "clip": 0.1, "eval_every": None} | train
    made = spec(model, arm[0], task, **settings)
    return made.model_copy(update={"args": METHODS[arm[0]].complete(arm[1])})


def tuning_of(model: str, task: str, arm: Arm = LORA) -> FineTuning:
    """The fine-tuning of an arm in ARMS, or of LORA. It is shared: whoever takes steps with it
    takes them back."""
    return _set_up(model, task, ARMS.index(arm) if arm in ARMS else None)


@functools.cache
def _set_up(model: str, task: str, index: int | None) -> FineTuning:
    return set_up(wanted(model, task, LORA if index is None else ARMS[index]), CPU)


def changed(tuning: FineTuning, **train: Any) -> FineTuning:
    """The same with other settings of `train` than those of the optimizer."""
    settings = tuning.spec.train.model_copy(update=train)
    size = micro_batch(settings, len(tuning.data["train"].items))
    spec = tuning.spec.model_copy(update={"train": settings})
    return dataclasses.replace(tuning, spec=spec, micro_batch=size)


def steps(
    tuning: FineTuning, count: int, dropout: float = 0.0, **settings: Any
) -> tuple[TrainingLog, Weights]:
    """What training leaves, and the weights, after so many steps with other settings. The
    fine-tuning is as before."""
    net = tuning.model.net
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    with unchanged(net, tuning.optimizer):
        log = train(changed(tuning, steps=count, **settings), never)
        weights = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    return log, weights


def losses(log: TrainingLog) -> list[float | None]:
    return [point.train_loss for point in log.curve]
