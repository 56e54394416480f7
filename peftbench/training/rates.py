"""How fast a device multiplies matrices, measured, and whether it may be asked for bfloat16."""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from peftbench.errors import InputError
from peftbench.spec import Precision
from peftbench.training.environment import cuda_bfloat16, synchronize

# Sides of the probe's matrices. At 128 a product of a CPU without bfloat16 instructions takes long
# enough to know (0.1 s where it is 500 times slower), but too short a time to tell less apart.
PROBE_SIZES = (128, 512)
CRAWLS = 0.1  # of float32's rate: less is no question of the size
SLOW = 0.5  # of float32's rate
PROBE_SECONDS = 0.1  # for the products of one kind and size, once the first is made


@dataclass(frozen=True)
class Rates:
    """FLOP/s of square matrix products."""

    float32: float
    bfloat16: float


def seconds_of(call: Callable[[], Any], device: torch.device) -> float:
    """How long a call takes on the device."""
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - start


def gemm_peak(
    device: torch.device,
    dtype: torch.dtype,
    size: int = 1024,
    repeats: int = 8,
    seconds: float = 2.0,
) -> float:
    """FLOP/s of the fastest of a few square matrix products: the rate that utilization is relative
    to. No product is begun after so many seconds; the first always is."""
    a, b = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))
    taken: list[float] = []
    while len(taken) < repeats and sum(taken) < seconds:
        taken.append(seconds_of(lambda: torch.mm(a, b), device))
    return 2 * size**3 / min(taken)


@functools.cache
def probe(device: torch.device) -> Rates:
    """Both rates, measured once in a process, in a fraction of a second."""
    rates = Rates(0.0, 0.0)
    for size in PROBE_SIZES:
        rates = Rates(
            gemm_peak(device, torch.float32, size, seconds=PROBE_SECONDS),
            gemm_peak(device, torch.bfloat16, size, seconds=PROBE_SECONDS),
        )
        if rates.bfloat16 < CRAWLS * rates.float32:
            break
    return rates


def check_precision(precision: Precision, device: torch.device) -> None:
    """Raises InputError where the precision needs products in bfloat16 and the device does not have
    them, or is slower in them than in float32. A CUDA device that has them is not measured."""
    if precision == "float32":
        return
    asked, instead = f'train.precision = "{precision}"', 'take train.precision = "float32"'
    if device.type == "cuda":
        if not cuda_bfloat16(device):
            name = torch.cuda.get_device_name(device)
            raise InputError(f"{asked}: {name} has no bfloat16: {instead}")
        return
    rates = probe(device)
    if rates.bfloat16 < SLOW * rates.float32:
        raise InputError(
            f"{asked}: this machine multiplies matrices at {rates.bfloat16 / 1e9:.3g} GFLOP/s in "
            f"bfloat16 and {rates.float32 / 1e9:.3g} GFLOP/s in float32: {instead}"
        )
