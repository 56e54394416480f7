"""GPUs by name or by their memory: what fits into them is asked."""

import math
import re
from dataclasses import dataclass

from peftbench.errors import InputError, shown, unknown
from peftbench.spec import Precision

GIB = 2**30
CONTEXT_GIB = 0.6  # CUDA's own context, at the most (estimate/reserved.py)


@dataclass(frozen=True)
class Gpu:
    """A GPU that runs may be carried out on."""

    name: str
    gib: float  # that the allocator can have
    bfloat16: bool = True

    @property
    def usable_bytes(self) -> int:
        return round(self.gib * GIB)

    @property
    def auto_precision(self) -> Precision:
        """What the precision "auto" comes to there."""
        return "bf16-mixed" if self.bfloat16 else "float32"

    def is_called(self, device_name: str) -> bool:
        """Whether CUDA's name of a device has all words of this one: A100-80GB is NVIDIA
        A100-SXM4-80GB."""
        return _words(self.name) <= _words(device_name)


# GiB in all as CUDA counts them, the least that error messages of torch have named ("GPU 0 has a
# total capacity of ... GiB"): with ECC, and with what drivers keep, they differ by up to 1 %.
# A GPU older than Ampere has no bfloat16.
_CAPACITIES: dict[str, float] = {
    "A10G": 21.98,
    "L4": 21.95,
    "A30": 23.49,
    "RTX-3090": 23.57,
    "RTX-4090": 23.51,
    "RTX-5090": 31.36,
    "A100-40GB": 39.38,
    "A40": 44.33,
    "L40S": 44.38,
    "RTX-A6000": 47.40,
    "A100-80GB": 79.14,
    "H100-80GB": 79.10,
    "H100-NVL": 93.0,
    "H200": 139.7,
    "B200": 178.3,
}
_WITHOUT_BFLOAT16: dict[str, float] = {"T4": 14.56, "V100-16GB": 15.77, "V100-32GB": 31.73}
GPUS = {
    name: Gpu(name, gib - CONTEXT_GIB, bfloat16)
    for bfloat16, capacities in ((True, _CAPACITIES), (False, _WITHOUT_BFLOAT16))
    for name, gib in capacities.items()
}


def gpu(given: str) -> Gpu:
    """The GPU that a person means by a name, in whatever case, or by a number of GiB that training
    can have. Words that only one GPU has are enough: 4090 is no number of GiB. Raises InputError
    that names the nearest."""
    words = _words(given)
    named = [known for name, known in GPUS.items() if words and words <= _words(name)]
    if len(named) == 1:
        return named[0]
    if named:
        names = " or ".join(known.name for known in named)
        raise InputError(f"GPU {shown(given)}: which one? {names}")
    try:
        gib = float(given)
    except ValueError:
        error = unknown("GPU", given, GPUS)
        raise InputError(f"{error}; or a number of GiB, such as 24") from None
    if not (math.isfinite(gib) and gib > 0):
        raise InputError(f"GPU {shown(given)}: write a number of GiB, such as 24, or a name")
    return Gpu(f"{gib:g} GiB", gib)


def _words(name: str) -> set[str]:
    return set(re.findall("[a-z0-9]+", name.lower()))
