"""Answers an object that lies about its class.

Fate: wrong.
"""


class Liar:
    @property
    def __class__(self) -> type:  # type: ignore[override]
        return str

    def __str__(self) -> str:
        return "x"

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


def solve() -> object:
    return Liar()
