"""A language model's head on some of its trunk's states, and the loss of the logits in parts."""

# once_differentiable's type has no name for ctx
# pyright: reportIncompatibleMethodOverride=false

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from peftbench.methods.linear import answering

# logits that stand at a time: constants, so that equal runs round alike
LOGITS = {"cpu": 2**22, "cuda": 2**26}
Logits = Callable[[Tensor], Tensor]  # (rows, hidden) -> (rows, vocabulary)


def states_and_head(net: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, Logits]:
    """The trunk's last states, (items, length, hidden), and what the network's own code makes of
    such states: scaling and caps of logits included."""
    output = net.base_model(**inputs, use_cache=False)
    # some networks call the decoder in their trunk themselves
    trunks = [each for each in (net.base_model, net.get_decoder()) if each is not net]

    def logits(rows: Tensor) -> Tensor:
        answer = type(output)(last_hidden_state=rows[None])
        with ExitStack() as stack:
            for trunk in trunks:
                stack.enter_context(answering(trunk, answer))
            return net(**inputs, use_cache=False).logits[0]

    return output.last_hidden_state, logits


def nll_in_parts(logits: Logits, states: Tensor, target: Tensor, rows: int) -> Tensor:
    """nll of each target, in float32, `rows` of them at a time: (n, hidden), (n,) -> (n,). Keeps
    the gradient of the states and no logits. The head must be frozen."""
    nll: Tensor = _InParts.apply(states, target, logits, rows)  # type: ignore[assignment]
    return nll


def nll_of_trained_head(logits: Logits, states: Tensor, target: Tensor, rows: int) -> Tensor:
    """The same where the head is trained: the logits of all parts but a single one are computed
    again for the backward pass, which needs them for the head's own gradient."""

    def part(states: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(logits(states).float(), target, reduction="none")

    if len(states) <= rows:
        return part(states, target)
    parts = zip(states.split(rows), target.split(rows), strict=True)
    return torch.cat([checkpoint(part, *pair, use_reentrant=False) for pair in parts])  # type: ignore[misc]


class _InParts(torch.autograd.Function):
    """nll = logsumexp(z) - z_t with z = logits(h); dnll/dh = (softmax(z) - e_t) dz/dh is computed
    beside it, since the logits are there."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, target: Tensor, logits: Logits, rows: int) -> Tensor:
        wanted = ctx.needs_input_grad[0]
        gradient = torch.empty_like(states) if wanted else None  # (n, hidden)
        nll = torch.empty(len(states), dtype=torch.float32, device=states.device)
        for start in range(0, len(states), rows):
            part = slice(start, start + rows)
            h = states[part].detach()
            with torch.set_grad_enabled(wanted):
                z = logits(h.requires_grad_(wanted))
            log_p = F.log_softmax(z.detach(), -1, dtype=torch.float32)
            of_target = log_p.gather(1, target[part, None])  # (rows, 1)
            nll[part] = -of_target[:, 0]
            if gradient is not None:
                error = log_p.exp_().scatter_(1, target[part, None], of_target.exp() - 1)
                (gradient[part],) = torch.autograd.grad(z, h, error.to(z.dtype))
        ctx.save_for_backward(gradient)
        return nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0][:, None].to(gradient.dtype), None, None, None
