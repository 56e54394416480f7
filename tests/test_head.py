"""The loss of a language model in parts: the same as of all logits at once, and its gradients."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftbench.training import language_model
from peftbench.training.base import Item
from peftbench.training.head import nll_in_parts, nll_of_trained_head
from peftbench.training.language_model import LanguageModel

STATES, HIDDEN, VOCABULARY = 7, 5, 11
Loss = Callable[..., Tensor]


def made(trained: bool) -> tuple[nn.Linear, Tensor, Tensor, Tensor]:
    """A head, states, targets, and a weight of each target's loss, as items of unlike length have
    it."""
    rng = torch.Generator().manual_seed(0)
    head = nn.Linear(HIDDEN, VOCABULARY)
    for parameter in head.parameters():
        parameter.data.normal_(generator=rng)
    head.requires_grad_(trained)
    states = torch.randn(STATES, HIDDEN, generator=rng, requires_grad=True)
    target = torch.randint(VOCABULARY, (STATES,), generator=rng)
    return head, states, target, torch.rand(STATES, generator=rng)


@pytest.mark.parametrize("rows", [1, 3, STATES, 100])
@pytest.mark.parametrize(("loss", "trained"), [(nll_in_parts, False), (nll_of_trained_head, True)])
def test_parts_have_the_loss_and_the_gradients_of_the_whole(
    loss: Loss, trained: bool, rows: int
) -> None:
    head, states, target, weight = made(trained)

    def logits(part: Tensor) -> Tensor:
        assert len(part) <= rows  # no more of them stand at a time
        return 3 * torch.tanh(head(part) / 3)  # a cap, as some families have it

    nll = loss(logits, states, target, rows)
    whole = F.cross_entropy(3 * torch.tanh(head(states) / 3), target, reduction="none")
    torch.testing.assert_close(nll, whole)
    wanted = [states, *(head.parameters() if trained else ())]
    ours = torch.autograd.grad(nll @ weight, wanted)
    for one, other in zip(ours, torch.autograd.grad(whole @ weight, wanted), strict=True):
        torch.testing.assert_close(one, other)


def subject(monkeypatch: pytest.MonkeyPatch, rows: int) -> LanguageModel:
    """A Llama whose states go through a weight of its own before the output embedding."""
    net: Any = tiny.make(tiny.llama, torch.float32)
    net.task_head = ()
    net.register_parameter("gain", nn.Parameter(torch.full((), 1.5)))
    net.lm_head.register_forward_pre_hook(lambda _, inputs: (inputs[0] * net.gain,))
    monkeypatch.setattr(language_model, "LOGITS", {"cpu": rows * tiny.VOCABULARY})
    tokenizer = SimpleNamespace(pad_token_id=0, eos_token_id=0)
    return LanguageModel(net, tokenizer, torch.device("cpu"), 64)


ITEMS = [Item([5, 6, 7, 8, 9], False, supervised=3), Item([10, 11, 12], False, supervised=2)]


@pytest.mark.parametrize("rows", [2, 100])
@pytest.mark.parametrize("names", [("gain",), ("lm_head.weight",), ("model.norm.weight",)])
def test_whatever_of_the_head_is_trained_has_the_gradient_of_all_logits(
    names: tuple[str, ...], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = subject(monkeypatch, rows)
    net = model.net.requires_grad_(False)
    trained = [net.get_parameter(name).requires_grad_(True) for name in names]
    result = model.score(model.collate(ITEMS))
    assert result.count.tolist() == [3, 2]
    logits = [net(input_ids=torch.tensor([item.tokens])).logits[0] for item in ITEMS]
    expected = torch.stack(
        [
            F.cross_entropy(z[-n - 1 : -1], torch.tensor(item.tokens[-n:]), reduction="sum")
            for z, item in zip(logits, ITEMS, strict=True)
            for n in [item.supervised]
        ]
    )
    torch.testing.assert_close(result.nll, expected)
    ours = torch.autograd.grad(result.nll.sum(), trained)
    for one, other in zip(ours, torch.autograd.grad(expected.sum(), trained), strict=True):
        torch.testing.assert_close(one, other)
