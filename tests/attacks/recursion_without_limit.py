"""Calls itself without end and without Python's limit.

Fate: ended or error.
"""

import sys


def solve() -> int:
    sys.setrecursionlimit(1 << 30)
    return deep()


class Deep:
    def __repr__(self) -> str:
        return repr([self])


def deep() -> int:
    return len(repr(Deep()))
