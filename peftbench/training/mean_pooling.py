"""A sequence classifier of transformers whose head reads the mean of all last hidden states."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from peftbench.methods.files import MEAN_HEAD
from peftbench.training.checkpoint import POOLER

# What families call the dropout before their classifier, or else that of their layers.
DROPOUT = (
    "classifier_dropout",
    "classifier_dropout_prob",
    "seq_classif_dropout",
    "cls_dropout",
    "hidden_dropout_prob",
    "dropout",
)


class MeanPooled(nn.Module):
    """Before a classifier of transformers among the bases of a class: in the place of that
    classifier's head, dropout and one linear layer on the mean. The trunk is as it was but for its
    pooler, which nothing would read. The head has a name of its own, so that transformers' own
    classifier does not take its weights for those of a head that reads something else."""

    base_model: Any  # the trunk: a property of transformers' networks

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        trunk = self.base_model
        for name, child in [*self.named_children()]:
            if child is not trunk:
                delattr(self, name)
        if isinstance(getattr(trunk, POOLER, None), nn.Module):
            setattr(trunk, POOLER, nn.Identity())  # some families call it in any case
        given = (getattr(config, name, None) for name in DROPOUT)
        self.dropout = nn.Dropout(next((p for p in given if p is not None), 0.0))
        self.add_module(MEAN_HEAD, nn.Linear(config.hidden_size, config.num_labels))

    def _init_weights(self, module: nn.Module) -> None:
        """transformers asks for initial values of what is not stored; a family's own code may know
        no module but those of its own head."""
        head = getattr(self, MEAN_HEAD, None)
        if head is not None and module is head:
            nn.init.normal_(head.weight, std=getattr(self.config, "initializer_range", 0.02))
            nn.init.zeros_(head.bias)
        elif module is not self:
            super()._init_weights(module)  # type: ignore[misc]

    def forward(self, attention_mask: Tensor, **inputs: Any) -> SequenceClassifierOutput:
        """inputs: the trunk's."""
        given = {name: value for name, value in inputs.items() if value is not None}
        states = self.base_model(attention_mask=attention_mask, **given).last_hidden_state
        head = self.get_submodule(MEAN_HEAD)
        logits = head(self.dropout(mean(states, attention_mask)))  # (items, labels)
        return SequenceClassifierOutput(logits=logits)


def mean_pooled(kind: type[Any]) -> type[Any]:
    """The class of networks that are a `kind` with the head on the mean."""
    return type(f"MeanPooled{kind.__name__}", (MeanPooled, kind), {"__module__": kind.__module__})


def mean(states: Tensor, mask: Tensor) -> Tensor:
    """Of the tokens that the mask says are there, computed in float32 or wider, as sentence
    encoders are trained (arXiv:1908.10084, section 3): (items, length, hidden), (items, length) ->
    (items, hidden)."""
    wide = torch.promote_types(states.dtype, torch.float32)
    present = states.masked_fill(mask.unsqueeze(-1) == 0, 0.0)
    total = present.sum(1, dtype=wide)
    return (total / mask.sum(1, keepdim=True)).to(states.dtype)
