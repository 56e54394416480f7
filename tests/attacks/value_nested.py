"""Answers a list nested 100,000 deep.

Fate: error.
"""


def solve() -> list[object]:
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]
    return nested
