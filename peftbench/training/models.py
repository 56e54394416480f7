"""Classifier and LanguageModel: the only place that knows tokens."""

import abc
import functools
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
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
from peftbench.tasks.base import Example, TaskKind


@dataclass(frozen=True)
class Item:
    """An encoded example. `target`: the supervised tokens (language model), a label's index, or a
    number."""

    tokens: list[int]
    target: list[int] | int | float
    truncated: bool

    @property
    def length(self) -> int:
        return len(self.tokens) + (len(self.target) if isinstance(self.target, list) else 0)


@dataclass(frozen=True)
class Batch:
    """Items as tensors. `inputs` are the network's, all (items, length); `target` is what the loss
    compares with."""

    inputs: dict[str, Tensor]
    target: Tensor
    tokens: int  # real tokens
    padded: int  # tokens with padding: what is computed


@dataclass(frozen=True)
class BatchResult:
    """Per item of a batch: summed nll of its supervised tokens, their number, and the network's
    answer where one forward gives it."""

    nll: Tensor  # (items,)
    count: Tensor  # (items,)
    answer: Tensor | None  # (items,)


class AbstractModel(abc.ABC):
    """A model under test: network, tokenizer, and the way between text and tensors. A subclass is
    final."""

    def __init__(self, net: Any, tokenizer: Any, device: torch.device, max_length: int) -> None:
        self.net = net
        self.tokenizer = tokenizer
        self.device = device
        self.window: int | None = getattr(net.config, "max_position_embeddings", None)  # tokens
        self.max_length = min(max_length, self.window or max_length)
        self.pad = (
            tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        )
        if self.pad is None:
            raise InputError(
                f"the tokenizer of {net.config.name_or_path} has neither a padding token "
                "nor an end-of-sequence token"
            )
        net.config.pad_token_id = self.pad

    @property
    @abc.abstractmethod
    def head(self) -> tuple[str, ...]:
        """Names of the network's children that are new to the task, and so trained whatever the
        method."""

    @abc.abstractmethod
    def encode(self, example: Example) -> Item:
        """Tokens of an example, cut to `max_length`. Raises InputError that names an example
        without a token."""

    @abc.abstractmethod
    def collate(self, items: Sequence[Item]) -> Batch:
        """The items as one padded batch on the device."""

    @abc.abstractmethod
    def logits(self, batch: Batch) -> Tensor:
        """The network's output for a batch, in the network's dtype."""

    @abc.abstractmethod
    def score(self, batch: Batch) -> BatchResult:
        """One forward pass. The loss is computed in float32."""

    def head_parameters(self) -> list[nn.Parameter]:
        """The parameters of `head`."""
        return [
            parameter
            for name in self.head
            for parameter in self.net.get_submodule(name).parameters()
        ]

    def pad_rows(self, rows: list[list[int]], left: bool) -> tuple[Tensor, Tensor]:
        """Token ids and attention mask, both (rows, longest)."""
        width = max(map(len, rows))
        ids = torch.full((len(rows), width), self.pad)
        mask = torch.zeros(len(rows), width, dtype=torch.long)
        for i, row in enumerate(rows):
            place = slice(width - len(row), width) if left else slice(len(row))
            ids[i, place] = torch.tensor(row)
            mask[i, place] = 1
        return ids.to(self.device), mask.to(self.device)


class Classifier(AbstractModel):
    """A transformers sequence classifier; with one label it is a regression, whose nll is that of a
    normal with unit variance."""

    @property
    def head(self) -> tuple[str, ...]:
        trunk = self.net.base_model
        return tuple(
            name
            for name, child in self.net.named_children()
            if child is not trunk and any(True for _ in child.parameters())
        )

    @property
    def regression(self) -> bool:
        return self.net.config.num_labels == 1

    def encode(self, example: Example) -> Item:
        sentences = (example.text,) if example.pair is None else (example.text, example.pair)
        full = self.tokenizer(*sentences)["input_ids"]
        tokens = full
        if len(full) > self.max_length:
            tokens = self.tokenizer(
                *sentences, truncation="longest_first", max_length=self.max_length
            )["input_ids"]
        if len(full) <= self.tokenizer.num_special_tokens_to_add(pair=example.pair is not None):
            raise InputError(f"example {example.id!r}: its text has no token")
        target = float(example.target) if self.regression else int(example.target)
        return Item(tokens, target, truncated=len(full) > self.max_length)

    def collate(self, items: Sequence[Item]) -> Batch:
        ids, mask = self.pad_rows([item.tokens for item in items], left=False)
        target = torch.tensor([item.target for item in items], device=self.device)  # (items,)
        return Batch(
            {"input_ids": ids, "attention_mask": mask},
            target,
            sum(item.length for item in items),
            ids.numel(),
        )

    def logits(self, batch: Batch) -> Tensor:
        return self.net(**batch.inputs).logits  # (items, labels)

    def score(self, batch: Batch) -> BatchResult:
        logits = self.logits(batch).float()
        count = torch.ones(len(logits), device=logits.device)
        if self.regression:
            value = logits.squeeze(-1)
            constant = 0.5 * torch.log(torch.tensor(2 * torch.pi))
            nll = 0.5 * (value - batch.target).square() + constant
            return BatchResult(nll, count, value)
        return BatchResult(
            F.cross_entropy(logits, batch.target, reduction="none"), count, logits.argmax(-1)
        )


class LanguageModel(AbstractModel):
    """A transformers causal language model. Batches are padded on the left, so that the answers end
    at the same place."""

    IGNORE = -100

    @property
    def head(self) -> tuple[str, ...]:
        return ()

    def encode(self, example: Example) -> Item:
        prompt = self.tokenizer(example.text)["input_ids"]
        target = self.tokenizer(str(example.target), add_special_tokens=False)["input_ids"]
        if not prompt or not target:
            raise InputError(
                f"example {example.id!r}: its {'answer' if prompt else 'prompt'} has no token"
            )
        target = [*target, self.tokenizer.eos_token_id]
        truncated = len(prompt) + len(target) > self.max_length
        # an answer as long as the window leaves room for one token of the prompt
        target = target[: self.max_length - 1]
        prompt = prompt[-(self.max_length - len(target)) :]  # the prompt's end matters most
        return Item(prompt, target, truncated)

    def collate(self, items: Sequence[Item]) -> Batch:
        rows = [[*item.tokens, *_tokens(item)] for item in items]
        ids, mask = self.pad_rows(rows, left=True)
        keep = max(len(_tokens(item)) for item in items)
        target = torch.full((len(items), keep), self.IGNORE)
        for i, item in enumerate(items):
            target[i, keep - len(_tokens(item)) :] = torch.tensor(_tokens(item))
        return Batch(
            self.inputs(ids, mask), target.to(self.device), sum(map(len, rows)), ids.numel()
        )

    def logits(self, batch: Batch) -> Tensor:
        # Only where an answer may be: with a large vocabulary the others would be the largest
        # tensor of a step.
        keep = batch.target.shape[1]
        return self._logits(batch.inputs, keep + 1)[:, :-1]  # (items, keep, vocabulary)

    def score(self, batch: Batch) -> BatchResult:
        logits = self.logits(batch).float()
        nll = F.cross_entropy(
            logits.transpose(1, 2), batch.target, ignore_index=self.IGNORE, reduction="none"
        )  # (items, keep)
        return BatchResult(nll.sum(1), (batch.target != self.IGNORE).sum(1), None)

    def inputs(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """What the network takes for left-padded rows."""
        inputs = {"input_ids": ids, "attention_mask": mask}
        if "position_ids" in self.accepted:
            inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
        return inputs

    def _logits(self, inputs: dict[str, Tensor], last: int) -> Tensor:
        """Logits of the last positions, (rows, last, vocabulary)."""
        if "logits_to_keep" in self.accepted:
            return self.net(**inputs, use_cache=False, logits_to_keep=last).logits
        return self.net(**inputs, use_cache=False).logits[:, -last:]

    @functools.cached_property
    def accepted(self) -> set[str]:
        """The names of the network's arguments."""
        return set(inspect.signature(self.net.forward).parameters)

    def text(self, tokens: list[int]) -> str:
        """What the tokens say, without special tokens."""
        return self.tokenizer.decode(tokens, skip_special_tokens=True)


def _tokens(item: Item) -> list[int]:
    """The supervised tokens of a language model's item."""
    assert isinstance(item.target, list)
    return item.target


def by_length(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Indices in batches of at most `tokens` tokens with padding, items of like length together,
    the shortest first."""
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batches and (len(batches[-1]) + 1) * lengths[i] <= tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def source(name: str) -> str:
    """What transformers loads for a name: the folder of a packaged model, or the local folder or
    hub id as given."""
    return str(assets.model_folder(name)) if name in assets.MODELS else name


def read_config(name: str) -> Any:
    """The model's configuration. Raises InputError where there is none."""
    try:
        return AutoConfig.from_pretrained(source(name), trust_remote_code=False)
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


def check_kind(name: str, config: Any, kind: TaskKind) -> None:
    """Raises InputError where a model cannot do a task of this kind."""
    family = type(config)
    if kind == "generation":
        if family not in MODEL_FOR_CAUSAL_LM_MAPPING or family in MODEL_FOR_MASKED_LM_MAPPING:
            raise InputError(
                f"model {name!r} ({config.model_type}) is no causal language model, "
                "which generation tasks need"
            )
    elif family not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise InputError(
            f"model {name!r} ({config.model_type}) has no sequence classifier in transformers"
        )


def skeleton(name: str, kind: TaskKind, labels: int) -> Any:
    """The network on the meta device: its structure without weights. Raises InputError as
    read_config and check_kind do."""
    config = read_config(name)
    check_kind(name, config, kind)
    with torch.device("meta"):
        if kind == "generation":
            net = AutoModelForCausalLM.from_config(config)
        else:
            config.num_labels = labels
            net = AutoModelForSequenceClassification.from_config(config)
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
    config = read_config(name)
    check_kind(name, config, kind)
    place = source(name)
    options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
        if kind == "generation":
            net = AutoModelForCausalLM.from_pretrained(place, **options)
        else:
            net = AutoModelForSequenceClassification.from_pretrained(
                place, num_labels=labels, **options
            )
    except OSError as error:
        raise InputError(f"model {name!r}: {str(error).splitlines()[0]}") from error
    linearize(net)
    moved: Any = net
    model_type = LanguageModel if kind == "generation" else Classifier
    return model_type(moved.to(device), tokenizer, device, max_length)
