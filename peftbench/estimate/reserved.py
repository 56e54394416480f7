"""From the bytes of live tensors to what a GPU must have: an allocator holds more than lives."""

# What is reserved at the peak, relative to what lives. LIKELY is the median of the published
# numbers that it is fitted on (docs/estimate.md). Less than what lives cannot be; HIGH makes the
# interval as wide as one may be that still says something, 15 % to either side of its middle.
# Outside lie what fragments badly, and CUDA's own context, 0.3 to 0.6 GiB, which nvidia-smi counts.
LOW, LIKELY, HIGH = 1.0, 1.016, 1.35


def reserved(peak: int) -> tuple[int, int, int]:
    """Bytes reserved where the live tensors' peak is `peak`: the least, the likeliest, the most."""
    low, likely, high = (round(peak * ratio) for ratio in (LOW, LIKELY, HIGH))
    return low, likely, high
