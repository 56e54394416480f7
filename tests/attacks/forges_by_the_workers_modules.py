"""Replaces what the worker sends by something else.

Fate: wrong or error.
"""

import sys


def solve() -> int:
    worker = sys.modules["peftbench.sandbox.worker"]
    wire = sys.modules["peftbench.sandbox.wire"]
    for module in (worker, wire):
        module.encoded = lambda value, keep=None: ["type", "str"]  # type: ignore[attr-defined]
    return 1
