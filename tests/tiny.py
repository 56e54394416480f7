"""Tiny models from configurations, with the shapes that tell things apart, and a bare training
loop."""

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from peftbench.methods.base import AbstractMethod, Range, Space
from peftbench.methods.linear import AbstractAdapted, layers, linearize

VOCABULARY = 61
LABELS = 3


def llama() -> PreTrainedModel:
    """Grouped-query attention (k and v narrower than q), an MLP wider than the model, input and
    output embeddings tied."""
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    return transformers.LlamaForCausalLM(config)


def gpt2() -> PreTrainedModel:
    """Conv1D layers, as transformers makes them."""
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=24,
        n_layer=2,
        n_head=4,
        n_positions=64,
        resid_pdrop=0,
        embd_pdrop=0,
        attn_pdrop=0,
    )
    return transformers.GPT2LMHeadModel(config)


def linear_gpt2() -> PreTrainedModel:
    """GPT-2 as it is trained here."""
    model = gpt2()
    linearize(model)
    return model


def _encoder_shape() -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "num_labels": LABELS,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }


def bert() -> PreTrainedModel:
    """The head is one linear layer; the pooler before it belongs to the trunk."""
    config = transformers.BertConfig(**_encoder_shape())
    return transformers.BertForSequenceClassification(config)


def bert_without_pooler() -> PreTrainedModel:
    """A BERT whose pooler is not stored, and so new to the task like the head."""
    model: Any = bert()
    model.task_head = HEADS[bert_without_pooler]
    return model


def roberta() -> PreTrainedModel:
    """The head has two linear layers."""
    return transformers.RobertaForSequenceClassification(
        transformers.RobertaConfig(**_encoder_shape())
    )


def distilbert() -> PreTrainedModel:
    """The head is two modules, the name of one ending with that of the other."""
    config = transformers.DistilBertConfig(
        vocab_size=VOCABULARY,
        dim=24,
        hidden_dim=40,
        n_layers=2,
        n_heads=4,
        max_position_embeddings=64,
        dropout=0.0,
        attention_dropout=0.0,
        seq_classif_dropout=0.0,
    )
    config.num_labels = LABELS
    return transformers.DistilBertForSequenceClassification(config)


HEADS = {
    llama: (),
    gpt2: (),
    linear_gpt2: (),
    bert: ("classifier",),
    bert_without_pooler: ("bert.pooler", "classifier"),
    roberta: ("classifier",),
    distilbert: ("pre_classifier", "classifier"),
}


def make(build: Callable[[], PreTrainedModel], dtype: torch.dtype = torch.float64) -> Any:
    """The same bits on every call, in evaluation mode; torch's global generator is left as it was.
    Any: a type checker knows nothing of a model's modules."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = build()
        return model.to(dtype).eval()


def adapted(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Name and layer of every adapted layer, whose parameters a type checker cannot know."""
    yield from layers(model, AbstractAdapted).items()


def batch(model: PreTrainedModel, seed: int = 0) -> dict[str, Tensor]:
    """Inputs and labels of a step: 4 sequences of 7 tokens."""
    rng = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (4, 7), generator=rng)
    return {
        "input_ids": ids,
        "labels": ids if model.can_generate() else torch.randint(0, LABELS, (4,), generator=rng),
    }


def attach(
    method: AbstractMethod, model: PreTrainedModel, head: tuple[str, ...] = (), seed: int = 0
) -> list[nn.Parameter]:
    """The method attached and the head unfrozen, as a run does it; returns what the method trains,
    without the head."""
    method.attach(model, torch.Generator().manual_seed(seed))
    return unfreeze(model, head)


def unfreeze(model: nn.Module, head: tuple[str, ...]) -> list[nn.Parameter]:
    """Make the head trainable; returns what else is."""
    new = {id(p) for name in head for p in model.get_submodule(name).parameters()}
    trained = [p for p in model.parameters() if p.requires_grad and id(p) not in new]
    for name in head:
        model.get_submodule(name).requires_grad_(True)
    return trained


def head_group(model: nn.Module, head: tuple[str, ...], lr: float) -> list[dict[str, Any]]:
    """The optimizer group of the head; none without one."""
    return [{"params": list(model.get_submodule(name).parameters()), "lr": lr} for name in head]


def fit(
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    update: Callable[[int], None],
    steps: int = 20,
    before: Callable[[int], None] = lambda step: None,
) -> list[float]:
    """Take steps, counted from 1, on three batches in turn; returns the losses. `before` is called
    before each update."""
    losses = []
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        loss = model(**batch(model, step % 3)).loss
        loss.backward()
        before(step)
        update(step)
        losses.append(loss.item())
    return losses


def train(
    method: AbstractMethod,
    model: PreTrainedModel,
    head: tuple[str, ...] = (),
    steps: int = 20,
    lr: float = 1e-2,
    **options: Any,
) -> list[float]:
    """Attach and train with AdamW; returns the losses. options: those of AdamW."""
    groups = method.param_groups(attach(method, model, head), model, lr) + head_group(
        model, head, 1e-2
    )
    groups = [group for group in groups if group["params"]]
    if not groups:
        return []
    settings: dict[str, Any] = {"weight_decay": 0.0} | options
    optimizer = torch.optim.AdamW(groups, **settings)
    return fit(model, optimizer, lambda step: method.update(model, optimizer, step), steps)


class BiasShift(AbstractMethod):
    """A method that trains the trunk's biases (the norms' weights where it has none), changes what
    it does in its second step, and can neither be merged nor saved."""

    version: ClassVar[int] = 1
    paper: ClassVar[str] = "made up"
    lr: ClassVar[float] = 1e-3
    space: ClassVar[Space] = {"train.lr": Range(1e-4, 1e-2, log=True)}
    trains_weights: ClassVar[bool] = True

    def attach(self, model: nn.Module, rng: torch.Generator) -> None:
        model.requires_grad_(False)
        small = [p for p in model.parameters() if p.dim() == 1]
        for parameter in small:
            parameter.requires_grad_(True)
        model.register_buffer("steps_taken", torch.zeros(()))

    def update(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        optimizer.step()
        model.get_buffer("steps_taken").add_(1)
        if step == 2:
            model.register_buffer("begun", torch.ones(3))
            vars(model)["shifted"] = True
