"""Answers an integer of 60,000 digits.

Fate: wrong.
"""


def solve() -> int:
    return 1 << 200_000
