"""The processor cores that this process may use."""

import os


def cores() -> tuple[int, ...]:
    """Their numbers, of which the system may have set some aside."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))
