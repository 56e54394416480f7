"""Raises an integer to a great power.

Fate: ended or late or error.
"""


def solve() -> int:
    return 9**9**9
