"""The methods' equations as autograd functions that keep the least for the backward pass.

A function reads the frozen weight W when it needs it, forward and backward, and keeps none: that of
a quantised base is made anew each time (`frozen_weight`).
"""

# once_differentiable's type has no name for ctx
# pyright: reportIncompatibleMethodOverride=false

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Read = Callable[[], Tensor]


def frozen_weight(base: nn.Linear) -> tuple[Tensor | None, Read | None]:
    """W of a frozen linear layer as a tensor, which may be kept since it lives anyway; or where the
    layer makes it on each access, the way to have it made."""
    weight = base._parameters.get("weight")
    if weight is None:
        return None, lambda: base.weight
    if weight.requires_grad:
        raise ValueError("the weight under an adapter is frozen; this one requires a gradient")
    return weight, None


def rows(x: Tensor, dtype: torch.dtype) -> Tensor:
    """(..., in) -> (tokens, in)."""
    return x.reshape(-1, x.shape[-1]).to(dtype)


def shaped(y: Tensor, shape: torch.Size) -> Tensor:
    """(tokens, out) -> (..., out), as no view, which networks could not write to in place."""
    return torch.ops.aten._unsafe_view(y, [*shape[:-1], y.shape[-1]])


class LowRankLinear(torch.autograd.Function):
    """y = x W^T + bias + s z B^T with z = h A^T, where h is x, or x after dropout.

    With g = dL/dy and k = s g B: dL/dx = g W (+ k A where h is x), dL/dh = k A, dL/dA = k^T h,
    dL/dB = s g^T z (arXiv:2106.09685, section 4.1). Keeps h (as it came, so that layers on one
    input keep it once) where A is trained, z (tokens, r) where B is, A and B in the dtype of W.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,  # (..., in)
        h: Tensor | None,  # (..., in); None: x
        A: Tensor,  # (r, in)
        B: Tensor,  # (out, r)
        bias: Tensor | None,  # (out,)
        scale: float,
        weight: Tensor | None,  # (out, in); None: `read` makes it
        read: Read | None,
    ) -> Tensor:
        W = weight if read is None else read()
        assert W is not None
        branch = x if h is None else h
        A_used, B_used = A.to(W.dtype), B.to(W.dtype)
        z = rows(branch, W.dtype) @ A_used.t()  # (tokens, r)
        y = F.linear(rows(x, W.dtype), W, bias)  # (tokens, out)
        y.addmm_(z, B_used.t(), alpha=scale)
        ctx.save_for_backward(
            branch if ctx.needs_input_grad[2] else None,
            z if ctx.needs_input_grad[3] else None,
            *(A_used, B_used, weight),
        )
        ctx.scale, ctx.read, ctx.separate, ctx.shape = scale, read, h is not None, x.shape
        ctx.dtypes = (x.dtype, None if h is None else h.dtype, A.dtype, B.dtype)
        return shaped(y, x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        branch, z, A, B, weight = ctx.saved_tensors
        x_dtype, h_dtype, A_dtype, B_dtype = ctx.dtypes
        wants_x, wants_h, wants_A, wants_B, wants_bias = ctx.needs_input_grad[:5]
        g = rows(gradients[0], A.dtype)  # (tokens, out)
        scaled = ctx.scale * B  # (out, r): less to multiply than g or k
        k: Any = g @ scaled if wants_x or wants_h or wants_A else None  # (tokens, r)
        grad_x = grad_h = grad_A = grad_B = grad_bias = None
        if wants_x:
            grad_x = g @ (weight if ctx.read is None else ctx.read())  # (tokens, in)
            if not ctx.separate:
                grad_x.addmm_(k, A)
            grad_x = grad_x.view(ctx.shape).to(x_dtype)
        if wants_h:
            grad_h = (k @ A).view(ctx.shape).to(h_dtype)
        if wants_A:
            grad_A = (k.t() @ rows(branch, A.dtype)).to(A_dtype)
        if wants_B:
            # as z^T g, since a product with few columns takes three times as long on a CPU
            grad_B = (z.t() @ g).mul_(ctx.scale).t().to(B_dtype)
        if wants_bias:
            grad_bias = g.sum(0)
        return grad_x, grad_h, grad_A, grad_B, grad_bias, None, None, None


def low_rank_linear(
    base: nn.Linear, x: Tensor, A: Tensor, B: Tensor, scale: float, h: Tensor | None = None
) -> Tensor:
    """base(x) + scale * (h A^T) B^T, h being x where it is not given."""
    weight, read = frozen_weight(base)
    return LowRankLinear.apply(x, h, A, B, base.bias, scale, weight, read)  # type: ignore[return-value]


class ScaledProjection(torch.autograd.Function):
    """y = x W^T + bias + (u * d) (b * B)^T with u = h A^T made outside, since layers share it.

    With g = dL/dy and k = g (b * B): dL/dx = g W, dL/du = k * d, dL/dd = sum k * u, dL/db = sum
    over r of (g^T (u * d)) * B. Keeps u (tokens, r) and nothing of size tokens x out or out x r:
    plain autograd would keep B (d * u) as well, the largest tensor of all adapters.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,  # (..., in)
        u: Tensor,  # (tokens, r)
        b: Tensor,  # (out,)
        d: Tensor,  # (r,)
        B: Tensor,  # (out, r)
        bias: Tensor | None,  # (out,)
        weight: Tensor | None,  # (out, in); None: `read` makes it
        read: Read | None,
    ) -> Tensor:
        W = weight if read is None else read()
        assert W is not None
        b_used, d_used = b.to(W.dtype), d.to(W.dtype)
        y = F.linear(rows(x, W.dtype), W, bias)  # (tokens, out)
        y.addmm_(u * d_used, (b_used[:, None] * B).t())
        ctx.save_for_backward(u, b_used, d_used, B, weight)
        ctx.read, ctx.shape, ctx.dtypes = read, x.shape, (x.dtype, b.dtype, d.dtype)
        return shaped(y, x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        u, b, d, B, weight = ctx.saved_tensors
        x_dtype, b_dtype, d_dtype = ctx.dtypes
        wants_x, wants_u, wants_b, wants_d, _, wants_bias = ctx.needs_input_grad[:6]
        g = rows(gradients[0], u.dtype)  # (tokens, out)
        grad_x = grad_u = grad_b = grad_d = grad_bias = None
        if wants_x:
            W = weight if ctx.read is None else ctx.read()
            grad_x = (g @ W).view(ctx.shape).to(x_dtype)
        if wants_b:
            grad_b = (g.t() @ (u * d)).mul_(B).sum(1).to(b_dtype)
        if wants_u or wants_d:
            k = g @ (b[:, None] * B)  # (tokens, r)
            grad_d = (k * u).sum(0).to(d_dtype) if wants_d else None
            grad_u = k.mul_(d) if wants_u else None
        if wants_bias:
            grad_bias = g.sum(0)
        return grad_x, grad_u, grad_b, grad_d, None, grad_bias, None, None


def scaled_projection(
    base: nn.Linear, x: Tensor, u: Tensor, b: Tensor, d: Tensor, B: Tensor
) -> Tensor:
    """base(x) + (u * d) (b * B)^T."""
    weight, read = frozen_weight(base)
    return ScaledProjection.apply(x, u, b, d, B, base.bias, weight, read)  # type: ignore[return-value]
