"""Cuts what is open to nothing.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("ftruncate", 0, 0)
"""
    )
    return True
