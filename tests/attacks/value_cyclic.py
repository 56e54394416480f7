"""Answers a list that holds itself.

Fate: error.
"""


def solve() -> list[object]:
    cyclic: list[object] = []
    cyclic.append(cyclic)
    return cyclic
