"""From the bytes of live tensors to what a GPU must have: an allocator holds more than what lives,
and CUDA itself takes some."""

# Of what is reserved to what lives, at the peak: docs/estimate.md, fitted and tested there.
LOW, LIKELY, HIGH = 1.06, 1.22, 1.42
CONTEXT = 0


def reserved(peak: int) -> tuple[int, int, int]:
    """Bytes reserved where the live tensors' peak is `peak`: the least, the likeliest, the most."""
    low, likely, high = (round(peak * ratio) + CONTEXT for ratio in (LOW, LIKELY, HIGH))
    return low, likely, high
