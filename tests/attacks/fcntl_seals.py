"""Sets what only a descriptor's owner should: F_ADD_SEALS.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("fcntl", 1, 1033, 1)
"""
    )
    return True
