"""Virtual tokens before every text: their embeddings are trained (prompt tuning, P-tuning), or
their keys and values in every layer (prefix tuning).

Of the former each row of a batch begins with tokens beyond the vocabulary, so that padding,
positions, the cache and answers need to know nothing of them. peft itself numbers the tokens behind
the virtual ones with the padding between, so that an example's logits depend on the examples beside
it; here no number is given to padding.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from peftbench.errors import UnsupportedError
from peftbench.methods.base import IN_CACHE

PROMPT_TYPES = {
    *("CARTRIDGE", "CPT", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "PROMPT_TUNING"),
}


class PromptedEmbedding(nn.Module):
    """The network's embedding, and beyond its vocabulary the virtual tokens, one after another."""

    def __init__(self, base: nn.Embedding, wrapped: Any) -> None:
        super().__init__()
        self.base = base
        self.encoder = wrapped.prompt_encoder  # its parameters are the network's
        self.count = wrapped.active_peft_config.num_virtual_tokens
        self._prompt = wrapped.get_prompt  # bound to what is no module of the network

    @property
    def weight(self) -> Tensor:
        return self.base.weight

    @property
    def virtual(self) -> list[int]:
        """The virtual tokens' ids."""
        first = self.base.num_embeddings
        return [*range(first, first + self.count)]

    def forward(self, ids: Tensor) -> Tensor:
        if ids.shape[-1] <= self.count:  # what follows after the first tokens
            return self.base(ids)
        places = ids - self.base.num_embeddings
        embedded = self.base(ids.clamp(max=self.base.num_embeddings - 1))
        prompt = self._prompt(batch_size=1)[0].to(embedded.dtype)  # (virtual, hidden)
        return torch.where(places[..., None] >= 0, prompt[places.clamp(min=0)], embedded)


@dataclass(frozen=True)
class _Prefix:
    """Gives the trunk a cache that begins with the virtual tokens, unless it has read them."""

    wrapped: Any

    def __call__(self, trunk: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, Any]:
        cache = kwargs.get("past_key_values")
        if cache is not None and cache.get_seq_length():
            return args, kwargs
        prefix = self.wrapped.get_prompt(batch_size=len(kwargs["input_ids"]))
        if cache is None:
            return args, kwargs | {"past_key_values": prefix}
        for i, layer in enumerate(prefix.layers):
            cache.update(layer.keys, layer.values, i)
        return args, kwargs


def prepend(model: Any, wrapped: Any) -> None:
    """Put the virtual tokens of `wrapped` into the network's embedding, or into the cache that its
    trunk is called with. Raises UnsupportedError."""
    kind = wrapped.active_peft_config.peft_type.value
    if kind == "PREFIX_TUNING":
        model.prefix_encoder = wrapped.prompt_encoder  # its parameters are the network's
        vars(model)[IN_CACHE] = wrapped.active_peft_config.num_virtual_tokens
        model.base_model.register_forward_pre_hook(_Prefix(wrapped), with_kwargs=True)
        return
    base = model.get_input_embeddings()
    if not isinstance(base, nn.Embedding):
        raise UnsupportedError(f"peft: {kind}: the model's embedding is a {type(base).__name__}")
    model.set_input_embeddings(PromptedEmbedding(base, wrapped))
