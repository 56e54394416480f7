"""VeRA: y = W x + b * (B (d * (A x))), with one frozen random pair A, B shared by all layers; b and
d are trained."""

import weakref
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import PositiveFloat
from torch import Tensor, nn

from peftbench.methods.adapter_file import AbstractSettings, AdapterFile
from peftbench.methods.base import Range, Targets, rates
from peftbench.methods.dropout import dropout
from peftbench.methods.kernels import rows, scaled_projection
from peftbench.methods.linear import AbstractAdapted, AbstractAdapterMethod, adapt, kaiming_uniform
from peftbench.methods.low_rank import Dropout, Rank


class Projection(nn.Module):
    """The shared pair: A (r, largest in), B (largest out, r). A layer uses A's first columns and
    B's first rows.

    Kaiming-uniform with gain sqrt 2 over the full size, as in huggingface/peft @ 5d602fdb,
    tuners/vera/model.py.
    """

    A: Tensor
    B: Tensor

    def __init__(self, rank: int, linears: Sequence[nn.Linear], rng: torch.Generator) -> None:
        super().__init__()
        largest_in = max(linear.in_features for linear in linears)
        largest_out = max(linear.out_features for linear in linears)
        weight = linears[0].weight
        for name, shape in {"A": (rank, largest_in), "B": (largest_out, rank)}.items():
            values = kaiming_uniform(shape, 2**0.5, weight, rng)
            self.register_buffer(name, values.to(weight.dtype))
        self._latest: tuple[Any, int, Any] | None = None

    def down(self, x: Tensor) -> Tensor:
        """x A^T by A's first columns: (..., in) -> (tokens, r). Layers that read the same tensor
        one after another, such as those of query, key and value, share the product, which the
        first of them keeps for the backward pass."""
        # a compiler sees by itself that products are the same
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return self._down(x)
        if self._latest is not None:
            of, version, kept = self._latest
            u = kept()
            if of() is x and version == x._version and u is not None:
                return u
        u = self._down(x)
        self._latest = weakref.ref(x), x._version, weakref.ref(u)
        return u

    def _down(self, x: Tensor) -> Tensor:
        A = self.A[:, : x.shape[-1]]
        return F.linear(rows(x, A.dtype), A)  # (tokens, r)


class VectorBased(AbstractAdapted):
    """A linear layer with its two trained vectors: b (out) starts at zero, d (r) at `d_init`."""

    def __init__(
        self, base: nn.Linear, *, projection: Projection, d_init: float, dropout: float
    ) -> None:
        super().__init__()
        self.base = base
        self.projection = projection
        self.d_init = d_init
        self.dropout = dropout
        rank, weight = projection.A.shape[0], base.weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        self.b = nn.Parameter(weight.new_zeros(base.out_features, dtype=dtype))  # (out,)
        self.d = nn.Parameter(weight.new_full((rank,), d_init, dtype=dtype))  # (r,)

    def matrices(self) -> tuple[Tensor, Tensor]:
        """This layer's slices of the shared pair: (r, in), (out, r)."""
        A, B = self.projection.A, self.projection.B
        return A[:, : self.base.in_features], B[: self.base.out_features]

    def delta(self) -> Tensor:
        A, B = self.matrices()
        return (self.b[:, None] * B) @ (self.d[:, None] * A)

    def settings(self) -> dict[str, Any]:
        return {
            "r": self.projection.A.shape[0],
            "vera_dropout": self.dropout,
            "d_initial": self.d_init,
            # The pair itself is in the file; the key from which peft would draw one is never used.
            "save_projection": True,
            "projection_prng_key": 0,
        }

    def tensors(self) -> dict[str, Tensor]:
        return {"vera_lambda_b": self.b, "vera_lambda_d": self.d}

    def shared(self) -> dict[str, Tensor]:
        return {"vera_A": self.projection.A, "vera_B": self.projection.B}

    def forward(self, x: Tensor) -> Tensor:
        h = dropout(x, self.dropout) if self.dropout and self.training else x
        _, B = self.matrices()
        return scaled_projection(self.base, x, self.projection.down(h), self.b, self.d, B)


def vector_based(
    linears: Sequence[nn.Linear], rank: int, d_init: float, dropout: float, rng: torch.Generator
) -> list[VectorBased]:
    """A layer for each linear layer, all with one pair."""
    projection = Projection(rank, linears, rng)
    return [
        VectorBased(linear, projection=projection, d_init=d_init, dropout=dropout)
        for linear in linears
    ]


class VeraSettings(AbstractSettings):
    """A VeRA adapter whose random pair is in the file."""

    peft_type = "VERA"
    parts = ("vera_lambda_b", "vera_lambda_d")
    vera_dropout: Dropout = 0.0
    d_initial: PositiveFloat

    def build(self, linears: Sequence[nn.Linear]) -> list[VectorBased]:
        return vector_based(linears, self.r, self.d_initial, self.vera_dropout, torch.Generator())


class VeRA(AbstractAdapterMethod):
    """Vector-based random matrix adaptation. It has no alpha: the learning rate plays its part
    (paper, section 4)."""

    version = 1
    paper = "arXiv:2310.11454"
    lr = 1e-2
    space = rates(1e-3, 1e-1) | {"args.d_init": Range(1e-7, 1.0, log=True)}
    file = AdapterFile(VeraSettings)

    rank: Rank = 256
    d_init: PositiveFloat = 0.1
    """Initial value of every element of d."""
    dropout: Dropout = 0.0
    targets: Targets = "all-linear"

    def attach(self, model: nn.Module, rng: torch.Generator) -> None:
        adapt(
            model,
            self.targets,
            lambda linears: vector_based(linears, self.rank, self.d_init, self.dropout, rng),
        )
