"""LoRA-FA: LoRA with A frozen; only B is trained, and a layer keeps A x (r numbers a token) instead
of x for the backward pass."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from peftbench.methods.base import AbstractFile, Range, Space, Targets
from peftbench.methods.linear import AbstractAdapterMethod, adapt, layers
from peftbench.methods.low_rank import LORA_FILE, Alpha, Dropout, LowRank, Rank


def corrected(gradient: Tensor, A: Tensor, scale: float) -> Tensor:
    """g_B (A A^T + 1e-8 I)^+ / s^2: s * result * A is the projection of dL/dW on A's row space.

    (out, r), (r, in) -> (out, r). arXiv:2308.03303v2; as in huggingface/peft @ 5d602fdb,
    optimizers/lorafa.py.
    """
    gram = A @ A.t() + 1e-8 * torch.eye(A.shape[0], dtype=A.dtype, device=A.device)  # (r, r)
    return gradient @ torch.linalg.pinv(gram) / scale**2


class LoRAFA(AbstractAdapterMethod):
    """LoRA with frozen A. `correction` is the gradient correction of the paper's second version;
    the first has none."""

    version: ClassVar[int] = 1
    paper: ClassVar[str] = "arXiv:2308.03303"
    lr: ClassVar[float] = 1e-3
    space: ClassVar[Space] = {
        "train.lr": Range(1e-4, 1e-2, log=True),
        "train.head_lr": Range(1e-4, 1e-2, log=True),
    }
    file: ClassVar[AbstractFile | None] = LORA_FILE

    rank: Rank = 8
    alpha: Alpha = 16.0
    dropout: Dropout = 0.0
    targets: Targets = "all-linear"
    correction: bool = False
    """Whether B's gradient is corrected for the frozen A, as in the paper's second version."""

    def attach(self, model: nn.Module, rng: torch.Generator) -> None:
        adapt(
            model,
            self.targets,
            lambda base: LowRank(
                base, rank=self.rank, alpha=self.alpha, dropout=self.dropout, rng=rng
            ),
        )
        for layer in layers(model, LowRank):
            layer.A.requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        if self.correction:
            for layer in layers(model, LowRank):
                if layer.B.grad is not None:  # None: this batch did not pass through the layer
                    layer.B.grad = corrected(layer.B.grad, layer.A, layer.scale)
        optimizer.step()
