"""Classifier: a sequence classifier, or with one label a regression."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from peftbench.errors import InputError
from peftbench.tasks.base import Example
from peftbench.training.base import AbstractModel, Batch, BatchResult, Item


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
