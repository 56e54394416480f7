"""Computes without end when an attribute of its answer is asked for.

Fate: ended or late.
"""


class Loop:
    def __getattr__(self, name: str) -> None:
        while True:
            pass

    @property
    def __class__(self) -> type:  # type: ignore[override]
        while True:
            pass


def solve() -> object:
    return Loop()
