"""Computes without end.

Fate: ended or late.
"""


def solve() -> int:
    while True:
        pass
