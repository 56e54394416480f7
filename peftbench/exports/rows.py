"""The training data as the run read them: tokens, in the order of its steps."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from peftbench.errors import InputError
from peftbench.methods.linear import linearize
from peftbench.spec import RunSpec
from peftbench.tasks import TASKS
from peftbench.tasks.base import AbstractTask, sample
from peftbench.training.base import AbstractModel, Item
from peftbench.training.checkpoint import read_tokenizer
from peftbench.training.classifier import Classifier
from peftbench.training.fine_tuning import plan_batches
from peftbench.training.language_model import LanguageModel
from peftbench.training.models import network_type, read_config, source

IGNORED = -100  # a label that no loss counts, in every one of the tools


@dataclass(frozen=True)
class Rows:
    """Of each step its examples, those of a micro-batch one after another."""

    batches: list[list[Item]]
    micro_batch: int
    generation: bool
    pad: int  # the token that fills up a batch

    @property
    def batch_size(self) -> int:
        return len(self.batches[0])

    @property
    def accumulation(self) -> int:
        """Micro-batches of a step."""
        return self.batch_size // self.micro_batch

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(len(item.tokens) for batch in self.batches for item in batch)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """What a tool reads of each example, in the names of transformers' networks."""
        for item in (item for batch in self.batches for item in batch):
            row: dict[str, Any] = {
                "input_ids": item.tokens,
                "attention_mask": [1] * len(item.tokens),
            }
            if item.types is not None:
                row["token_type_ids"] = item.types
            if self.generation:
                prompt = len(item.tokens) - item.supervised
                row["labels"] = [IGNORED] * prompt + item.tokens[prompt:]
            else:
                row["labels"] = item.target
            yield row

    def as_lines(self) -> str:
        """A JSON object a line."""
        return "".join(f"{json.dumps(row, separators=(',', ':'))}\n" for row in self)


def rows_of(spec: RunSpec, net: Any, found: int | None) -> Rows:
    """All that a run trains on. net: the model's structure. found: the size of the micro-batches
    where the spec leaves that to the run; None: no run has found it. Raises InputError."""
    task = TASKS[spec.task]()
    model = _reader(spec, task, net)
    items = model.encode_all(sample(task.examples("train"), spec.data.train))
    lengths = [len(item.tokens) for item in items]
    train = spec.train
    plan = plan_batches(lengths, train.batch_size, train.steps, spec.seed)
    micro_batch = _micro_batch(spec, len(plan[0]), found)
    batches = [[items[i] for i in batch] for batch in plan]
    if micro_batch < len(plan[0]):
        for batch in batches:  # as FineTuning cuts a batch
            batch.sort(key=lambda item: -len(item.tokens))
    return Rows(batches, micro_batch, task.kind == "generation", model.pad)


def structure(spec: RunSpec) -> Any:
    """The network's modules and shapes, without weights: from the model's configuration alone.
    Raises InputError where there is none."""
    task = TASKS[spec.task]
    config = read_config(spec.model, task.kind, len(task.labels) or 1, spec.pooling)
    with torch.device("meta"):
        # where the head reads its states makes no difference to the trunk
        net = network_type(task.kind, config, "model").from_config(config)
    linearize(net)
    return net


def _reader(spec: RunSpec, task: AbstractTask, net: Any) -> AbstractModel:
    """The way between the run's text and its tokens."""
    kind = LanguageModel if task.kind == "generation" else Classifier
    tokenizer = read_tokenizer(spec.model, *source(spec.model))
    return kind(net, tokenizer, torch.device("meta"), spec.data.max_length)


def _micro_batch(spec: RunSpec, batch_size: int, found: int | None) -> int:
    """How many examples of a step are on the device at a time."""
    given = found if spec.train.micro_batch == "auto" else spec.train.micro_batch
    if spec.train.micro_batch == "auto" and given is None:
        raise InputError(
            'train.micro_batch = "auto" is found by a run: export a run by its id, or write a '
            "number into the file"
        )
    size = min(int(given or batch_size), batch_size)
    if batch_size % size:
        right = ", ".join(str(n) for n in range(1, batch_size + 1) if batch_size % n == 0)
        raise InputError(
            f"train.micro_batch = {size} does not divide the {batch_size} examples of a step, and "
            f"the tools take micro-batches of one size: {right}"
        )
    return size
