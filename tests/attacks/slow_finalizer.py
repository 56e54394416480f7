"""Computes without end in a finalizer.

Fate: ended or late.
"""


class Loop:
    def __del__(self) -> None:
        while True:
            pass


def solve() -> int:
    Loop()
    return 1
