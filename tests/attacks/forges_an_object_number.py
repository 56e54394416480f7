"""Answers with a number of an object that the tests have never seen.

Fate: error.
"""

import sys


def solve() -> object:
    wire = sys.modules["peftbench.sandbox.wire"]
    wire.encoded = lambda value, keep=None: ["object", [1, 2]]  # type: ignore[attr-defined]
    return 1
