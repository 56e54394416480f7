"""Answers with the name of a type that the tests would look up.

Fate: error.
"""

import sys


def solve() -> object:
    wire = sys.modules["peftbench.sandbox.wire"]
    wire.encoded = lambda value, keep=None: ["type", "__import__"]  # type: ignore[attr-defined]
    return 1
