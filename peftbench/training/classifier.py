"""Classifier: a sequence classifier, or with one label a regression."""

import functools
import inspect
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from peftbench.errors import InputError
from peftbench.methods.files import OFFSET
from peftbench.tasks.base import Example
from peftbench.training.base import AbstractModel, Batch, BatchResult, Item

Encoded = tuple[list[int], list[int] | None]  # tokens, and of which text each is
Frame = tuple[list[int], list[int], list[int]]  # tokens before, between and after the texts


class Classifier(AbstractModel):
    """A transformers sequence classifier; with one label it is a regression, whose nll is that of a
    normal with unit variance."""

    @property
    def regression(self) -> bool:
        return self.net.config.num_labels == 1

    @torch.no_grad()
    def start(self, targets: Sequence[int | float]) -> None:
        """Let a regression's new head answer about the mean of `targets`: its bias becomes the
        mean, or, where it has none, the mean is kept in the configuration and added to every
        answer."""
        name, last = self._last()
        if not self.regression or f"{name}.weight" not in self.new:
            return
        mean = sum(targets) / len(targets)
        if last.bias is not None:
            last.bias.fill_(mean)
        else:
            setattr(self.net.config, OFFSET, mean)

    def _last(self) -> tuple[str, nn.Linear]:
        """The head's last linear layer, which makes the logits, and its name."""
        linears = [
            (name, module)
            for head in self.head
            for name, module in self.net.get_submodule(head).named_modules(prefix=head)
            if isinstance(module, nn.Linear)
        ]
        return linears[-1]

    def encode_all(self, examples: Sequence[Example]) -> list[Item]:
        encoded = self._tokens(examples, None)
        for example, (tokens, _) in zip(examples, encoded, strict=True):
            if len(tokens) <= self._around(example):
                raise InputError(f"example {example.id!r}: its text has no token")
        long = [i for i, (tokens, _) in enumerate(encoded) if len(tokens) > self.max_length]
        cut = zip(long, self._tokens([examples[i] for i in long], self.max_length), strict=True)
        kept = dict(enumerate(encoded)) | dict(cut)
        truncated = set(long)
        return [
            Item(
                kept[i][0],
                i in truncated,
                float(example.target) if self.regression else int(example.target),
                types=kept[i][1],
            )
            for i, example in enumerate(examples)
        ]

    def _around(self, example: Example) -> int:
        """How many tokens stand around the texts of an example, and between them."""
        if example.pair is not None and self._frame is not None:
            return sum(map(len, self._frame))
        return self.tokenizer.num_special_tokens_to_add(pair=example.pair is not None)

    def _tokens(self, examples: Sequence[Example], limit: int | None) -> list[Encoded]:
        """Of each example its tokens, and of which text each is if the network asks; of a pair that
        is too long, the longer text loses its end first."""
        tokens: dict[int, Encoded] = {}
        for paired in (False, True):
            some = [i for i, example in enumerate(examples) if (example.pair is not None) == paired]
            if some:
                tokens |= zip(some, self._alike([examples[i] for i in some], limit), strict=True)
        return [tokens[i] for i in range(len(examples))]

    def _alike(self, examples: Sequence[Example], limit: int | None) -> list[Encoded]:
        """The tokens of examples that are all pairs, or all single texts."""
        texts = [example.text for example in examples]
        pairs = [example.pair for example in examples if example.pair is not None]
        if pairs and self._frame is not None:
            both = zip(self._bare(texts), self._bare(pairs), strict=True)
            return [(self._framed(*bare, self._frame, limit), None) for bare in both]
        cut = {} if limit is None else {"truncation": "longest_first", "max_length": limit}
        encoded = self.tokenizer(texts, pairs or None, **cut)
        types = encoded["token_type_ids"] if self._takes_types else [None] * len(texts)
        return [*zip(encoded["input_ids"], types, strict=True)]

    @staticmethod
    def _framed(first: list[int], second: list[int], frame: Frame, limit: int | None) -> list[int]:
        """The tokens of a pair, with what stands before, between and after its texts."""
        before, between, after = frame
        if limit is not None:
            room = max(limit - sum(map(len, frame)), 0)
            second = second[: max(room // 2, room - len(first))]
            first = first[: room - len(second)]
        return [*before, *first, *between, *second, *after]

    def _bare(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text on its own."""
        return self.tokenizer([*texts], add_special_tokens=False)["input_ids"]

    @functools.cached_property
    def _frame(self) -> Frame | None:
        """Tokens before, between and after the texts of a pair; None where the tokenizer itself
        keeps them apart."""
        first, second = self._bare(["a", "b"])
        both = self.tokenizer("a", "b")["input_ids"]
        touching = [*first, *second]
        for start in range(len(both) - len(touching) + 1):
            end = start + len(touching)
            if both[start:end] == touching:
                return both[:start], self._separator(), both[end:]
        return None

    def _separator(self) -> list[int]:
        """A new line, or where the tokenizer drops or does not know it, a special token."""
        (tokens,) = self._bare(["\n"])
        if tokens and self.tokenizer.unk_token_id not in tokens:
            return tokens
        special = (self.tokenizer.sep_token_id, self.tokenizer.eos_token_id)
        for token in special:
            if token is not None:
                return [token]
        raise InputError(
            f"the tokenizer of {self.net.config.name_or_path} puts nothing between the texts of a "
            "pair, and has neither a new line nor a separator nor an end-of-sequence token"
        )

    @functools.cached_property
    def _takes_types(self) -> bool:
        """Whether the network tells a pair's texts apart by a type of each token."""
        return (
            getattr(self.net.config, "type_vocab_size", 0) > 1
            and "token_type_ids" in self.tokenizer.model_input_names
            and "token_type_ids" in inspect.signature(self.net.base_model.forward).parameters
        )

    def collate(self, items: Sequence[Item]) -> Batch:
        ids, mask = self.pad_rows([item.tokens for item in items], left=False)
        inputs = {"input_ids": ids, "attention_mask": mask}
        if self._takes_types:
            types = [torch.tensor(item.types, dtype=torch.long) for item in items]
            inputs["token_type_ids"] = pad_sequence(types, True, 0).to(self.device)
        target = torch.tensor([item.target for item in items], device=self.device)  # (items,)
        tokens = sum(len(item.tokens) for item in items)
        return Batch(inputs, target, len(items), tokens, ids.numel())

    def score(self, batch: Batch) -> BatchResult:
        with self.computing():
            logits = self.net(**batch.inputs).logits.float()  # (items, labels)
        count = torch.ones(len(logits), device=logits.device)
        if self.regression:
            value = logits.squeeze(-1) + getattr(self.net.config, OFFSET, 0.0)
            constant = 0.5 * torch.log(torch.tensor(2 * torch.pi))
            nll = 0.5 * (value - batch.target).square() + constant
            return BatchResult(nll, count, value)
        nll = F.cross_entropy(logits, batch.target, reduction="none")
        return BatchResult(nll, count, logits.argmax(-1))
