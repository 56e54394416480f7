"""What a model under test is: a network, a tokenizer, and the way between text and tensors."""

import abc
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from peftbench.errors import InputError
from peftbench.spec import Precision
from peftbench.tasks.base import Example


@dataclass(frozen=True)
class Item:
    """An encoded example."""

    tokens: list[int]  # all that the network reads: of a language model the answer too
    truncated: bool
    target: int | float = 0  # of a classifier: a label's index or a number
    types: list[int] | None = None  # of a classifier: which text each token is of
    supervised: int = 0  # of a language model: tokens at the end that are the answer


@dataclass(frozen=True)
class Batch:
    """Items as tensors. `inputs` are the network's, all (items, length); `target` is what the loss
    compares with: of a classifier (items,), of a language model (supervised tokens,)."""

    inputs: dict[str, Tensor]
    target: Tensor
    count: int  # of what is supervised: a language model's tokens, a classifier's items
    tokens: int  # real tokens
    padded: int  # tokens with padding: what is computed
    # of a language model: where in (items x length) each supervised token is predicted
    places: Tensor | None = None


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

    def __init__(
        self,
        net: Any,
        tokenizer: Any,
        device: torch.device,
        max_length: int,
        new: frozenset[str] = frozenset(),
        precision: Precision = "float32",
    ) -> None:
        self.net = net
        self.precision = precision
        self.tokenizer = tokenizer
        self.device = device
        self.new = new  # names of the parameters with initial values of their own
        self.window = window(net)
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
    def product_dtype(self) -> torch.dtype:
        """In which the network's products are made."""
        return torch.float32 if self.precision == "float32" else torch.bfloat16

    def computing(self) -> AbstractContextManager[object]:
        """Within it products are made in the precision of the model: in bfloat16 where the frozen
        weights are and what is trained is float32."""
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.precision == "bf16-mixed"
        )

    @property
    def head(self) -> tuple[str, ...]:
        """Names of the network's modules that are new to the task, and so trained whatever the
        method."""
        return self.net.task_head

    def start(self, targets: Sequence[int | float]) -> None:
        """Give what is new to the task a good start, for the targets that it is to be trained
        on."""
        return

    def encode(self, example: Example) -> Item:
        """Tokens of an example, cut to `max_length`. Raises InputError that names an example
        without a token."""
        return self.encode_all([example])[0]

    @abc.abstractmethod
    def encode_all(self, examples: Sequence[Example]) -> list[Item]:
        """`encode` of each: a call of the tokenizer for many texts takes a fifth of the time."""

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


def window(net: Any) -> int | None:
    """How many tokens the network has positions for; None: any number."""
    positions = getattr(net.config, "max_position_embeddings", None)
    if positions is None or positions < 1:
        return None
    # RoBERTa and its kin count positions from behind that of padding
    skipped = [
        embedding.padding_idx + 1
        for name, embedding in net.named_modules()
        if name.rpartition(".")[2] == "position_embeddings"
        and getattr(embedding, "padding_idx", None) is not None
    ]
    return positions - max(skipped, default=0)


def room_for_prompt(window: int | None, max_new_tokens: int) -> int | None:
    """How many tokens a prompt may have before an answer; None: any number. Raises InputError where
    there is no room for one."""
    if window is None:
        return None
    if window <= max_new_tokens:
        raise InputError(
            f"max_new_tokens = {max_new_tokens} leaves no room for a prompt "
            f"in the model's window of {window} tokens"
        )
    return window - max_new_tokens


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
