"""LanguageModel: a causal language model, whose answers are text."""

import functools
import inspect
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftbench.errors import InputError
from peftbench.methods.base import IN_CACHE
from peftbench.tasks.base import Example
from peftbench.training.base import AbstractModel, Batch, BatchResult, Item
from peftbench.training.head import (
    LOGITS,
    nll_in_parts,
    nll_of_trained_head,
    states_and_head,
)


class LanguageModel(AbstractModel):
    """A transformers causal language model. Batches are padded on the left, so that the answers end
    at the same place."""

    def encode_all(self, examples: Sequence[Example]) -> list[Item]:
        prompts = self.tokenizer([example.text for example in examples])["input_ids"]
        answers = [str(example.target) for example in examples]
        targets = self.tokenizer(answers, add_special_tokens=False)["input_ids"]
        return [*map(self._item, examples, prompts, targets)]

    def _item(self, example: Example, prompt: list[int], target: list[int]) -> Item:
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
        length = ids.shape[1]
        target: list[int] = []
        places: list[int] = []
        for end, item in enumerate(items, 1):
            target += item.tokens[len(item.tokens) - item.supervised :]
            # a token is predicted by the state before it
            places += range(end * length - item.supervised - 1, end * length - 1)
        return Batch(
            inputs=self.inputs(ids, mask),
            target=torch.tensor(target, dtype=torch.long, device=self.device),
            count=len(target),
            tokens=sum(len(item.tokens) for item in items),
            padded=ids.numel(),
            places=torch.tensor(places, dtype=torch.long, device=self.device),
        )

    def score(self, batch: Batch) -> BatchResult:
        """The head reads the states of supervised tokens alone, a part at a time: with a large
        vocabulary all logits would be the largest tensor of a step."""
        assert batch.places is not None
        items, length = batch.inputs["input_ids"].shape
        with self.computing():
            states, logits = states_and_head(self.net, batch.inputs)
            states = states.flatten(0, 1).index_select(0, batch.places)  # (supervised, hidden)
            trained = torch.is_grad_enabled() and any(p.requires_grad for p in self._head_weights)
            nll_of = nll_of_trained_head if trained else nll_in_parts
            rows = max(self.logits // self.net.config.get_text_config().vocab_size, 1)
            nll = nll_of(logits, states, batch.target, rows)  # (supervised,)
        of, zeros = batch.places // length, nll.new_zeros(items)
        return BatchResult(
            zeros.index_add(0, of, nll), zeros.index_add(0, of, torch.ones_like(nll)), None
        )

    @property
    def virtual(self) -> list[int]:
        """Tokens beyond the vocabulary that a method puts before every text."""
        return getattr(self.net.get_input_embeddings(), "virtual", [])

    def pad_rows(self, rows: list[list[int]], left: bool) -> tuple[Tensor, Tensor]:
        """Token ids, (rows, longest), and the mask, which begins with the tokens that a method has
        in the cache."""
        virtual = self.virtual
        ids, mask = super().pad_rows([[*virtual, *row] for row in rows] if virtual else rows, left)
        return ids, F.pad(mask, (vars(self.net).get(IN_CACHE, 0), 0), value=1)

    def inputs(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """What the network takes for left-padded rows."""
        inputs = {"input_ids": ids, "attention_mask": mask}
        if "position_ids" in self.accepted:
            positions = (mask.cumsum(-1) - 1).clamp(min=0)
            inputs["position_ids"] = positions[:, -ids.shape[1] :]
        return inputs

    @functools.cached_property
    def logits(self) -> int:
        """How many logits stand at a time."""
        return LOGITS[self.device.type]

    @functools.cached_property
    def _head_weights(self) -> list[nn.Parameter]:
        """What makes logits of states: all outside the trunk, and the output embedding, which may
        be the input's too."""
        trunk = {id(parameter) for parameter in self.net.base_model.parameters()}
        outside = [p for p in self.net.parameters() if id(p) not in trunk]
        return [*outside, *self.net.get_output_embeddings().parameters()]

    @functools.cached_property
    def accepted(self) -> set[str]:
        """The names of the network's arguments."""
        return set(inspect.signature(self.net.forward).parameters)

    def text(self, tokens: list[int]) -> str:
        """What the tokens say, without special tokens."""
        return self.tokenizer.decode(tokens, skip_special_tokens=True)
