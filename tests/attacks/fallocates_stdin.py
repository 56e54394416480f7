"""Fills the disk by making room in what it reads its job from.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("fallocate", 0, 1, 0, 1 << 33)
"""
    )
    return True
