"""LanguageModel: a causal language model, whose answers are text."""

import functools
import inspect
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from peftbench.errors import InputError
from peftbench.tasks.base import Example
from peftbench.training.base import AbstractModel, Batch, BatchResult, Item


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
        count = sum(item.supervised for item in items)
        tokens = sum(len(item.tokens) for item in items)
        return Batch(self.inputs(ids, mask), target, count, tokens, ids.numel())

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
