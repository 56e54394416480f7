"""Sets what only a descriptor's owner should: F_SETOWN.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("fcntl", 1, 8, 1)
"""
    )
    return True
