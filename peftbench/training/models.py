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
from torch.nn.utils.rnn import pad_sequence
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
from peftbench.spec import split_revision
from peftbench.tasks.base import Example, TaskKind
from peftbench.training.revisions import unavailable


@dataclass(frozen=True)
class Item:
    """An encoded example."""

    tokens: list[int]  # all that the network reads: of a language model the answer too
    truncated: bool
    target: int | float = 0  # of a classifier: a label's index or a number
    supervised: int = 0  # of a language model: tokens at the end that are the answer


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
    def head(self) -> tuple[str, ...]:
        """Names of the network's children that are new to the task, and so trained whatever the
        method."""
        return ()

    @abc.abstractmethod
    def encode(self, example: Example) -> Item:
        """Tokens of an example, cut to `max_length`. Raises InputError that names an example
        without a token."""

    @abc.abstractmethod
    def collate(self, items: Sequence[Item]) -> Batch:
        """The items as one padded batch on the device."""

    @abc.abstractmethod
    def score(self, batch: Batch) -> BatchResult:
        """One forward pass. The loss is computed in float32."""

    def head_parameters(self) -> list[nn.Parameter]:
        """The parameters of `head`."""
        return [p for name in self.head for p in self.net.get_submodule(name).parameters()]

    def pad_rows(self, rows: list[list[int]], left: bool) -> tuple[Tensor, Tensor]:
        """Token ids and attention mask, both (rows, longest)."""
        tokens = [torch.tensor(row, dtype=torch.long) for row in rows]
        side = "left" if left else "right"
        ids = pad_sequence(tokens, True, self.pad, side)
        mask = pad_sequence([torch.ones_like(row) for row in tokens], True, 0, side)
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
            if child is not trunk and list(child.parameters())
        )

    @property
    def regression(self) -> bool:
        return self.net.config.num_labels == 1

    def encode(self, example: Example) -> Item:
        tokens = self.tokenizer(example.text, example.pair)["input_ids"]
        if len(tokens) <= self.tokenizer.num_special_tokens_to_add(pair=example.pair is not None):
            raise InputError(f"example {example.id!r}: its text has no token")
        truncated = len(tokens) > self.max_length
        if truncated:
            cut = {"truncation": "longest_first", "max_length": self.max_length}
            tokens = self.tokenizer(example.text, example.pair, **cut)["input_ids"]
        target = float(example.target) if self.regression else int(example.target)
        return Item(tokens, truncated, target)

    def collate(self, items: Sequence[Item]) -> Batch:
        ids, mask = self.pad_rows([item.tokens for item in items], left=False)
        target = torch.tensor([item.target for item in items], device=self.device)  # (items,)
        tokens = sum(len(item.tokens) for item in items)
        return Batch({"input_ids": ids, "attention_mask": mask}, target, tokens, ids.numel())

    def score(self, batch: Batch) -> BatchResult:
        logits = self.net(**batch.inputs).logits.float()  # (items, labels)
        count = torch.ones(len(logits), device=logits.device)
        if self.regression:
            value = logits.squeeze(-1)
            constant = 0.5 * torch.log(torch.tensor(2 * torch.pi))
            nll = 0.5 * (value - batch.target).square() + constant
            return BatchResult(nll, count, value)
        nll = F.cross_entropy(logits, batch.target, reduction="none")
        return BatchResult(nll, count, logits.argmax(-1))


class LanguageModel(AbstractModel):
    """A transformers causal language model. Batches are padded on the left, so that the answers end
    at the same place."""

    IGNORE = -100

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
        return Item([*prompt, *target], truncated, supervised=len(target))

    def collate(self, items: Sequence[Item]) -> Batch:
        ids, mask = self.pad_rows([item.tokens for item in items], left=True)
        supervised = torch.tensor([[item.supervised] for item in items], device=self.device)
        keep = max(item.supervised for item in items)
        from_end = torch.arange(keep, 0, -1, device=self.device)  # 1 is the last token
        target = ids[:, -keep:].where(from_end <= supervised, self.IGNORE)  # (items, keep)
        tokens = sum(len(item.tokens) for item in items)
        return Batch(self.inputs(ids, mask), target, tokens, ids.numel())

    def score(self, batch: Batch) -> BatchResult:
        # Only where an answer may be: with a large vocabulary the others would be the largest
        # tensor of a step.
        last = batch.target.shape[1] + 1
        keep = {"logits_to_keep": last} if "logits_to_keep" in self.accepted else {}
        logits = self.net(**batch.inputs, **keep, use_cache=False).logits
        logits = logits[:, -last:-1].float()  # (items, keep, vocabulary)
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

    @functools.cached_property
    def accepted(self) -> set[str]:
        """The names of the network's arguments."""
        return set(inspect.signature(self.net.forward).parameters)

    def text(self, tokens: list[int]) -> str:
        """What the tokens say, without special tokens."""
        return self.tokenizer.decode(tokens, skip_special_tokens=True)


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


def source(name: str) -> tuple[str, str]:
    """What transformers loads for a name: the folder of a packaged model, a local folder or a hub
    id; and the hub's revision, which says nothing of a folder."""
    if name in assets.MODELS:
        return str(assets.model_folder(name)), "main"
    if Path(name).is_dir():
        return name, "main"
    hub_id, revision = split_revision(name)
    return hub_id, revision or "main"


def read_config(name: str, kind: TaskKind, labels: int) -> Any:
    """The model's configuration for a task. Raises InputError where there is none, or where the
    model cannot do a task of this kind."""
    place, revision = source(name)
    try:
        config = AutoConfig.from_pretrained(place, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        if not Path(name).is_dir():
            raise unavailable(name, error) from error
        raise InputError(
            f"model {name!r}: no readable config.json in this folder: {str(error).splitlines()[0]}"
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
    config, (place, revision) = read_config(name, kind, labels), source(name)
    loading: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, **loading)
        net = network_type(kind).from_pretrained(
            place, config=config, dtype=dtype, use_safetensors=True, **loading
        )
    except OSError as error:
        raise InputError(f"model {name!r}: {str(error).splitlines()[0]}") from error
    linearize(net)
    model_type = LanguageModel if kind == "generation" else Classifier
    return model_type(net.to(device), tokenizer, device, max_length)
