"""Prints without end.

Fate: ended or late.
"""


def solve() -> int:
    while True:
        print("x" * 10_000)
