"""A linear layer whose frozen weight is kept in 4 or 8 bits: W is made anew wherever it is used, in
forward and again in backward, and never kept."""

import functools
import logging
from types import ModuleType
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftbench.errors import InputError

BLOCK = 64  # numbers of W that share a scale
SCALE_BLOCK = 256  # scales that share one of their own
Format = Literal["nf4", "int8"]


@functools.cache
def library() -> ModuleType:
    """bitsandbytes.functional, which also defines torch.ops.bitsandbytes. Raises InputError where
    it is not installed."""
    # it warns of kernels for inference that it could not fetch; they are not used here
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        import bitsandbytes.functional
    except ImportError as error:
        raise InputError(
            "a quantised base needs bitsandbytes: pip install 'peftbench[quantized]'"
        ) from error
    return bitsandbytes.functional


@functools.cache
def values_of_codes(spacing: Literal["even", "dynamic"]) -> tuple[float, ...]:
    """What the 256 codes of 8 bits stand for, from -1 to 1: evenly spaced values, or those of the
    dynamic data type (arXiv:2110.02861, section 1.3). The first call needs real tensors."""
    functional = library()
    make = functional.create_linear_map if spacing == "even" else functional.create_dynamic_map
    return tuple(make().tolist())


class Product(torch.autograd.Function):
    """x W^T + bias, (..., in) -> (..., out). Keeps no tensor: x is needed for W's gradient only,
    which there is none of, and W is dequantised again for x's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, layer: "QuantizedLinear") -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        g = gradients[0]  # (..., out)
        wants_x, wants_bias, _ = ctx.needs_input_grad
        return (
            g @ ctx.layer.weight.to(g.dtype) if wants_x else None,
            g.reshape(-1, g.shape[-1]).sum(0) if wants_bias else None,
            None,
        )


class QuantizedLinear(nn.Linear):
    """A linear layer with W = s c[q]: a code q for each number, the values c of the codes, and a
    scale s for each 64 numbers, the largest magnitude among them. The scales are quantised too
    (double quantisation): s = offset + m d[k], an 8-bit code k for each and a float32 m for each
    256.

    nf4: c are the 16 values of QLoRA's NormalFloat (arXiv:2305.14314, section 3); codes and weights
    are to the bit those of bitsandbytes' Linear4bit as QLoRA sets it (blocks of 64, double
    quantisation), 0.516 bytes a number. int8: c are 255 evenly spaced values, 1.016 bytes a number.
    It is not LLM.int8() (arXiv:2208.07339), whose products also round the activations, so that its
    backward pass is not the derivative of its forward pass.

    Everything is kept as bytes, which `.to(dtype)` leaves alone. `weight`, (out, in) in the dtype
    of the weight that was quantised, cannot be trained or written to.
    """

    codes: Tensor  # nf4: (ceil(out in / 2), 1), two to a byte; int8: (out, in)
    scale_codes: Tensor  # (blocks,)
    # float32 as bytes:
    scale_maxima: Tensor  # m, one for each 256 blocks
    scale_offset: Tensor
    scale_values: Tensor  # d, 256
    values: Tensor  # c of int8, 256; nf4's stand in the kernel

    def __init__(self, linear: nn.Linear, base: Format) -> None:
        nn.Module.__init__(self)  # nn.Linear's own would make a weight
        spread, dynamic = values_of_codes("even"), values_of_codes("dynamic")
        kernels, weight = torch.ops.bitsandbytes, linear.weight.detach()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.layout = type(linear)  # of the plain layer
        self.format: Format = base
        self.dtype = weight.dtype
        self.register_parameter("bias", linear.bias)
        if base == "nf4":
            codes, scales = kernels.quantize_4bit(weight, BLOCK, base, torch.uint8)
        else:
            values = torch.tensor(spread, dtype=torch.float32, device=weight.device)
            codes, scales = kernels.quantize_blockwise(weight, values, BLOCK)
            self._register_bytes("values", values)
        offset, scale_values = scales.mean(), scales.new_tensor(dynamic)
        scale_codes, maxima = kernels.quantize_blockwise(scales - offset, scale_values, SCALE_BLOCK)
        self.register_buffer("codes", codes)
        self.register_buffer("scale_codes", scale_codes)
        self._register_bytes("scale_maxima", maxima)
        self._register_bytes("scale_offset", offset)
        self._register_bytes("scale_values", scale_values)

    def _register_bytes(self, name: str, numbers: Tensor) -> None:
        self.register_buffer(name, numbers.reshape(-1).view(torch.uint8))

    @property
    def weight(self) -> Tensor:  # type: ignore[override]  # no parameter
        """W, dequantised anew at each access."""
        kernels, float32 = torch.ops.bitsandbytes, torch.float32
        scales = kernels.dequantize_blockwise(
            self.scale_codes,
            self.scale_maxima.view(float32),
            self.scale_values.view(float32),
            SCALE_BLOCK,
            float32,
        )
        scales += self.scale_offset.view(float32)
        if self.format == "nf4":
            shape = self.out_features, self.in_features
            return kernels.dequantize_4bit(self.codes, scales, BLOCK, "nf4", shape, self.dtype)
        values = self.values.view(float32)
        return kernels.dequantize_blockwise(self.codes, scales, values, BLOCK, self.dtype)

    def forward(self, input: Tensor) -> Tensor:
        y: Tensor = Product.apply(input, self.bias, self)  # type: ignore[assignment]
        return y


def layout(linear: nn.Linear) -> type[nn.Linear]:
    """The class of the plain layer: that of `linear` before it was quantised."""
    return linear.layout if isinstance(linear, QuantizedLinear) else type(linear)


def plain_linear(base: nn.Linear, weight: Tensor) -> nn.Linear:
    """The plain layer, also of a quantised one, with another weight; shares the bias."""
    linear = layout(base)(base.in_features, base.out_features, bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    linear.bias = base.bias
    return linear


def parameter_count(model: nn.Module) -> int:
    """Parameters of a model, those included whose numbers are quantised."""
    quantized = [each for each in model.modules() if isinstance(each, QuantizedLinear)]
    kept = sum(parameter.numel() for parameter in model.parameters())
    return kept + sum(each.in_features * each.out_features for each in quantized)
