"""Delta-LoRA: LoRA that also moves W by the change of the product, W(t+1) = W(t) + lambda s (B' A'
- B A) from step K on.

The sum telescopes: W(t) = W(0) + lambda s (B_t A_t - B_K A_K). So W is never written to here:
nothing drifts in low precision, the base may be shared, and the trained model is an ordinary LoRA
adapter of rank 2r (of rank r when K = 0).
"""

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt
from torch import Tensor, nn

from peftbench.methods.base import Range, Targets, rates
from peftbench.methods.kernels import low_rank_linear
from peftbench.methods.linear import AbstractAdapterMethod, adapt, layers
from peftbench.methods.low_rank import LORA_FILE, AbstractLowRank, Alpha, Rank


def scale_gradient(value: Tensor, factor: float) -> Tensor:
    """The same value, whose gradient is multiplied by a factor."""
    view = value.view_as(value)
    if view.requires_grad:
        view.register_hook(lambda gradient: factor * gradient)
    return view


class DeltaLowRank(AbstractLowRank):
    """y = W(t) x + s B A x with W(t) from the telescoped sum.

    The paper takes gradients of A and B through the branch s B A only, W(t) being a constant within
    a step, but x's gradient through both. So the two are computed as one branch with scale (1 +
    lambda) s, and the gradients of A and B divided by 1 + lambda. Before step K lambda counts as 0.
    """

    A_start: Tensor | None  # A_K, (r, in); None: B_K A_K is zero, or W does not move yet
    B_start: Tensor  # B_K, (out, r)

    def __init__(
        self,
        base: nn.Linear,
        *,
        rank: int,
        alpha: float,
        ratio: float,
        moving: bool,
        rng: torch.Generator,
    ) -> None:
        super().__init__(base, rank=rank, alpha=alpha, rng=rng)
        self.ratio = ratio  # the paper's lambda
        self.moving = moving  # whether W moves; from the start at K = 0, where B_K A_K is zero
        self.register_buffer("A_start", None)

    def start(self) -> None:
        """W moves from here on: keep A_K and B_K."""
        self.moving = True
        self.register_buffer("A_start", self.A.detach().clone())
        self.register_buffer("B_start", self.B.detach().clone())

    def factors(self) -> tuple[Tensor, Tensor]:
        return self._joined(self.A, self.B)

    def _joined(self, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        """Those of the ordinary LoRA layer, made of A and B as they are now."""
        B = (1 + self.ratio if self.moving else 1.0) * B
        if self.A_start is None:
            return A, B
        return torch.cat([A, self.A_start]), torch.cat([B, -self.ratio * self.B_start], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        A, B = self.A, self.B
        if self.moving:
            A, B = (scale_gradient(matrix, 1 / (1 + self.ratio)) for matrix in (A, B))
        return low_rank_linear(self.base, x, *self._joined(A, B), self.scale)


class DeltaLoRA(AbstractAdapterMethod):
    """LoRA whose base weight follows the product. The branch has no dropout: dL/dW = dL/d(BA) holds
    only without (paper, section 4).

    ratio is the paper's lambda, start_step its K.
    """

    version = 1
    paper = "arXiv:2309.02411"
    lr = 1e-3
    space = rates(1e-4, 1e-2) | {
        "args.lambda": Range(0.25, 4, log=True),
        "args.start_step": Range(0, 100, integer=True, least=0),
    }
    file = LORA_FILE

    rank: Rank = 8
    alpha: Alpha = 16.0
    ratio: NonNegativeFloat = Field(2.0, alias="lambda")
    """The paper's lambda: how far W follows the change of (alpha / r) B A."""
    start_step: NonNegativeInt = 0
    """The paper's K: W stays as it is in the first K steps."""
    targets: Targets = "all-linear"

    def attach(self, model: nn.Module, rng: torch.Generator) -> None:
        rank, alpha, ratio, moving = self.rank, self.alpha, self.ratio, self.start_step == 0
        adapt(
            model,
            self.targets,
            lambda linears: [
                DeltaLowRank(linear, rank=rank, alpha=alpha, ratio=ratio, moving=moving, rng=rng)
                for linear in linears
            ],
        )

    @property
    def settled_at(self) -> int:
        return max(self.start_step, 1)

    def update(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        optimizer.step()
        if step == self.start_step:
            for layer in layers(model, DeltaLowRank).values():
                layer.start()

    def updatable(self, model: nn.Module) -> int:
        bases = [layer.base for layer in layers(model, DeltaLowRank).values()]
        return sum(base.in_features * base.out_features for base in bases)
