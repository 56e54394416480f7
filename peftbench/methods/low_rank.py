"""The low-rank layer y = W x + s B A x of the LoRA family (arXiv:2106.09685, section 4.1)."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from peftbench.methods.adapter_file import AbstractSettings, AdapterFile
from peftbench.methods.base import Targets
from peftbench.methods.dropout import dropout
from peftbench.methods.kernels import low_rank_linear
from peftbench.methods.linear import (
    AbstractAdapted,
    AbstractAdapterMethod,
    adapt,
    kaiming_uniform,
)

Rank = Annotated[int, Field(gt=0, le=65_536, description="r, the rank of B A.")]
Alpha = Annotated[PositiveFloat, Field(description="B A is multiplied by alpha / r.")]
Dropout = Annotated[float, Field(ge=0, lt=1, description="Part of the branch's input set to 0.")]


class AbstractLowRank(AbstractAdapted):
    """A layer whose change is s B A, s = alpha / r; its file is an ordinary LoRA layer's. W is
    frozen, A starts Kaiming-uniform (a = sqrt 5), B at zero.

    A's distribution is loralib's and peft's, U(-1/sqrt(in), 1/sqrt(in)); the paper says "random
    Gaussian".
    """

    def __init__(
        self,
        base: nn.Linear,
        *,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        rng: torch.Generator,
    ) -> None:
        super().__init__()
        self.base = base
        self.scale = alpha / rank
        self.dropout = dropout
        a = kaiming_uniform((rank, base.in_features), 3**-0.5, base.weight, rng)
        self.A = nn.Parameter(a)  # (r, in)
        self.B = nn.Parameter(a.new_zeros(base.out_features, rank))  # (out, r)

    def factors(self) -> tuple[Tensor, Tensor]:
        """(A, B) of an ordinary LoRA layer with the same scale that computes the same: (r', in),
        (out, r')."""
        return self.A, self.B

    def delta(self) -> Tensor:
        A, B = self.factors()
        return self.scale * (B @ A)

    def settings(self) -> dict[str, Any]:
        rank = self.factors()[0].shape[0]
        return {"r": rank, "lora_alpha": rank * self.scale, "lora_dropout": self.dropout}

    def tensors(self) -> dict[str, Tensor]:
        A, B = self.factors()
        return {"lora_A.weight": A, "lora_B.weight": B}


class LowRank(AbstractLowRank):
    """y = W x + s B A drop(x)."""

    def forward(self, x: Tensor) -> Tensor:
        h = dropout(x, self.dropout) if self.dropout and self.training else None
        return low_rank_linear(self.base, x, self.A, self.B, self.scale, h)


def low_rank(
    linears: Sequence[nn.Linear], rank: int, alpha: float, dropout: float, rng: torch.Generator
) -> list[LowRank]:
    """A layer for each linear layer."""
    return [LowRank(linear, rank=rank, alpha=alpha, dropout=dropout, rng=rng) for linear in linears]


class LoraSettings(AbstractSettings):
    """An ordinary LoRA adapter, which is what every low-rank method leaves."""

    peft_type = "LORA"
    parts = ("lora_A.weight", "lora_B.weight")
    lora_alpha: PositiveFloat
    lora_dropout: Dropout = 0.0
    use_rslora: Literal[False] = False
    alpha_pattern: dict[str, float] = Field({}, max_length=0)
    alora_invocation_tokens: None = None

    def build(self, linears: Sequence[nn.Linear]) -> list[LowRank]:
        return low_rank(linears, self.r, self.lora_alpha, self.lora_dropout, torch.Generator())


LORA_FILE = AdapterFile(LoraSettings)


class AbstractLowRankMethod(AbstractAdapterMethod):
    """A method whose layers compute what LoRA's do. A subclass is final."""

    file = LORA_FILE

    rank: Rank = 8
    alpha: Alpha = 16.0
    dropout: Dropout = 0.0
    targets: Targets = "all-linear"

    def attach(self, model: nn.Module, rng: torch.Generator) -> None:
        adapt(
            model,
            self.targets,
            lambda linears: low_rank(linears, self.rank, self.alpha, self.dropout, rng),
        )
