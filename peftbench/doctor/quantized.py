"""Check of frozen weights in 4 or 8 bits, for which bitsandbytes is needed."""

import importlib.metadata
import importlib.util
from typing import get_args

import torch
from torch import nn

from peftbench.doctor.finding import Finding
from peftbench.methods.quantized import Format, QuantizedLinear

# Relative error of a product whose weight is drawn from a normal distribution: 0.092 in nf4, 0.0063
# in int8. Far less means that nothing is quantised, far more that the kernels are wrong.
ERRORS: dict[Format, tuple[float, float]] = {"nf4": (0.07, 0.12), "int8": (0.004, 0.01)}
OUT, IN, TOKENS = 256, 512, 64


def base(place: torch.device) -> Finding:
    """Whether products with quantised weights have the errors that their formats have."""
    if importlib.util.find_spec("bitsandbytes") is None:
        return Finding(
            "skipped",
            "bitsandbytes is not installed",
            'only base = "nf4" and "int8" need it: pip install \'peftbench[quantized]\'',
        )
    errors = {kind: product_error(kind, place) for kind in get_args(Format)}
    found = (
        f"bitsandbytes {importlib.metadata.version('bitsandbytes')}: relative errors of products "
    )
    found += ", ".join(f"{error:.2g} in {kind}" for kind, error in errors.items())
    for kind, error in errors.items():
        low, high = ERRORS[kind]
        if not low <= error <= high:  # NaN too
            return Finding(
                "failed",
                f"{found}; in {kind} it should be {low:g} to {high:g}",
                f'do not use base = "{kind}" here: install another version of bitsandbytes',
            )
    return Finding("ok", found)


@torch.inference_mode()
def product_error(kind: Format, place: torch.device) -> float:
    """Relative error of W x with W kept in so many bits, against float32."""
    rng = torch.Generator().manual_seed(0)
    plain = nn.Linear(IN, OUT, bias=False)
    plain.weight = nn.Parameter(torch.randn(OUT, IN, generator=rng))  # (out, in)
    plain.to(place)
    x = torch.randn(TOKENS, IN, generator=rng).to(place)  # (tokens, in)
    exact = plain(x)
    return ((QuantizedLinear(plain, kind)(x) - exact).norm() / exact.norm()).item()
