"""Sets what only a descriptor's owner should: F_SETSIG.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("fcntl", 1, 10, 1)
"""
    )
    return True
