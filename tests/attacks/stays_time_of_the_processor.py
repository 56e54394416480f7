"""Measures how long its own computing takes, and so what others do on the same processor:
only a machine of its own hides it.

Fate: achieved.
"""

import time


def solve() -> bool:
    start = time.perf_counter_ns()
    sum(range(100_000))
    return time.perf_counter_ns() > start
