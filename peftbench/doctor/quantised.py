"""Check of bitsandbytes, which keeps frozen weights in 4 or 8 bits."""

import importlib
import importlib.util
from typing import Any

import torch

from peftbench.doctor.finding import Finding

# Relative error of a product whose weight, drawn from a normal distribution, is kept as NF4 in
# blocks of 64: 0.09. Far less means that nothing is quantised, far more that the kernels are wrong.
ERROR = (0.07, 0.12)
OUT, IN, TOKENS = 256, 512, 64


def nf4(place: torch.device) -> Finding:
    """Whether a product with a weight of 4 bits has the error that NF4 has."""
    if importlib.util.find_spec("bitsandbytes") is None:
        return Finding(
            "skipped",
            "bitsandbytes is not installed",
            'only base = "nf4" and "int8" need it: pip install bitsandbytes',
        )
    library = importlib.import_module("bitsandbytes")
    error = product_error(library, place)
    found = (
        f"bitsandbytes {library.__version__}: a product in NF4 has a relative error of {error:.3f}"
    )
    if not ERROR[0] <= error <= ERROR[1]:  # NaN too
        return Finding(
            "failed",
            f"{found}, not {ERROR[0]:g} to {ERROR[1]:g}",
            'do not use base = "nf4" here: install another version of bitsandbytes',
        )
    return Finding("ok", found)


def product_error(library: Any, place: torch.device) -> float:
    """Relative error of W x, with W in the library's NF4, against float32."""
    rng = torch.Generator().manual_seed(0)
    W = torch.randn(OUT, IN, generator=rng).to(place)  # (out, in)
    x = torch.randn(TOKENS, IN, generator=rng).to(place)  # (tokens, in)
    quantised, state = library.functional.quantize_4bit(W, blocksize=64, quant_type="nf4")
    approximate = library.functional.dequantize_4bit(quantised, state).to(W.dtype)
    exact = x @ W.t()
    return ((x @ approximate.t() - exact).norm() / exact.norm()).item()
