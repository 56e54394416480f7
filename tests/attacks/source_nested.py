"""Compiles a program nested too deep for the compiler.

Fate: error or ended.
"""


def solve() -> int:
    return eval("-" * 1_000_000 + "1")
