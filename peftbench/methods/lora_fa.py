"""LoRA-FA: LoRA with A frozen; only B is trained, and a layer keeps A x (r numbers a token) instead
of x for the backward pass."""

import torch
from torch import Tensor, nn

from peftbench.methods.base import rates
from peftbench.methods.linear import layers
from peftbench.methods.low_rank import AbstractLowRankMethod, LowRank


def corrected(gradient: Tensor, A: Tensor, scale: float) -> Tensor:
    """g_B (A A^T + 1e-8 I)^+ / s^2: s * result * A is the projection of dL/dW on A's row space.

    (out, r), (r, in) -> (out, r). arXiv:2308.03303v2; as in huggingface/peft @ 5d602fdb,
    optimizers/lorafa.py.
    """
    gram = A @ A.t() + 1e-8 * torch.eye(A.shape[0], dtype=A.dtype, device=A.device)  # (r, r)
    return gradient @ torch.linalg.pinv(gram) / scale**2


class LoRAFA(AbstractLowRankMethod):
    """LoRA with frozen A. `correction` is the gradient correction of the paper's second version;
    the first has none."""

    version = 1
    paper = "arXiv:2308.03303"
    lr = 1e-3
    space = rates(1e-4, 1e-2)

    correction: bool = False
    """Whether B's gradient is corrected for the frozen A, as in the paper's second version."""

    def attach(self, model: nn.Module, rng: torch.Generator) -> None:
        super().attach(model, rng)
        for layer in layers(model, LowRank).values():
            layer.A.requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        if self.correction:
            for layer in layers(model, LowRank).values():
                if layer.B.grad is not None:  # None: this batch did not pass through the layer
                    layer.B.grad = corrected(layer.B.grad, layer.A, layer.scale)
        optimizer.step()
