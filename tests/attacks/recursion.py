"""Calls itself without end.

Fate: error.
"""


def solve() -> int:
    return solve()
