"""Doubles a list until memory ends.

Fate: error.
"""


def solve() -> int:
    doubled = [0]
    while True:
        doubled += doubled
