"""What both sides do: a model, a task, a method, and the batches of each repeat."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from peftbench.errors import unknown
from peftbench.experiment import ArmEntry, Experiment, TaskEntry, expand
from peftbench.methods import METHODS
from peftbench.spec import RunSpec
from peftbench.tasks import TASKS
from peftbench.tasks.hub import MIRROR

WARM_UP = 1  # steps of a repeat before the clock starts: the first one makes the optimizer's state
MEGABATCH = 50  # batches that Trainer sorts by length together, where there are four times as many
SEED = 0


@dataclass(frozen=True)
class Setting:
    """How a model is trained in the comparison."""

    task: str  # from the hub or a mirror of it
    packaged: str  # the task in its place where there is no mirror
    batch_size: int
    steps: int  # timed, in each repeat


SETTINGS = {
    "minilm-l6": Setting("sst2", "reviews", batch_size=32, steps=20),
    "smollm2-135m": Setting("gsm8k", "gsm_symbolic", batch_size=8, steps=2),
}
# The arguments of ours that are not their defaults, by what the comparison calls a method.
ARGUMENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "full": ("full", {}),
    "lora": ("lora", {}),
    "lora-fa": ("lora-fa", {}),
    "lora-fa corrected": ("lora-fa", {"correction": True}),
    "lora+": ("lora+", {}),
    "vera": ("vera", {"rank": 256}),
}


@dataclass(frozen=True, kw_only=True)
class Work:
    """One comparison: of a method on a model and a task."""

    model: str  # a packaged model or a folder
    task: str
    method: str  # a key of ARGUMENTS
    batch_size: int
    steps: int  # timed, in each repeat
    repeats: int

    def __post_init__(self) -> None:
        if self.method not in ARGUMENTS:
            raise unknown("method", self.method, ARGUMENTS)
        if self.task not in TASKS:
            raise unknown("task", self.task, TASKS)

    def spec(self) -> RunSpec:
        """The run that ours is: every setting of the training that both sides share. A head learns
        at the method's rate, as Trainer has one rate for all."""
        method, args = ARGUMENTS[self.method]
        experiment = Experiment(
            question="How fast is it?",
            model=self.model,
            pooling="model" if TASKS[self.task].kind != "generation" else None,
            task=(TaskEntry(name=self.task),),
            arm=(ArmEntry(method=method, args=args),),
            seeds=(SEED,),
            split="valid",
            train={
                "steps": WARM_UP + self.steps,
                "batch_size": self.batch_size,
                "schedule": "constant",
                "warmup": 0,
                "head_lr": METHODS[method].lr,
            },
            data={"train": 4 * MEGABATCH * self.batch_size, "valid": 1, "generate": 0},
        )
        (spec,) = expand(experiment, METHODS, TASKS, auto_precision="float32")
        return spec


def work(model: str, method: str, repeats: int, steps: int | None, packaged: bool) -> Work:
    """The comparison of a packaged model as SETTINGS has it. steps: others than there. packaged:
    with the packaged task even where there is a mirror of the hub."""
    if model not in SETTINGS:
        raise unknown("model", model, SETTINGS)
    setting = SETTINGS[model]
    task = setting.packaged if packaged or not os.environ.get(MIRROR) else setting.task
    return Work(
        model=model,
        task=task,
        method=method,
        batch_size=setting.batch_size,
        steps=steps or setting.steps,
        repeats=repeats,
    )


def evenly(
    batches: Sequence[Sequence[int]], lengths: Sequence[int], steps: int, seed: int
) -> list[list[int]]:
    """The batches of a repeat out of those of an epoch: WARM_UP of middle size, then `steps` that
    lie evenly among all, ordered by padded size; these in a random order.

    A side that sorts examples by length has long and short batches, and Trainer takes them in
    falling order; a few that follow each other would say nothing of the epoch.
    """
    rng = np.random.default_rng(seed)
    ranked = sorted(batches, key=lambda batch: len(batch) * max(lengths[i] for i in batch))
    places = (np.arange(steps) + rng.random()) / steps * len(ranked)
    middle = list(ranked[len(ranked) // 2])
    chosen = [list(ranked[int(place)]) for place in places]
    return [middle] * WARM_UP + [chosen[i] for i in rng.permutation(steps)]


def full_batches(order: Sequence[int], size: int) -> list[list[int]]:
    """An order of examples cut into batches, without an incomplete last one."""
    return [list(order[i : i + size]) for i in range(0, len(order) - size + 1, size)]
