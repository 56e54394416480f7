"""Answers a text of 100 million letters.

Fate: error.
"""


def solve() -> str:
    return "x" * 10**8
