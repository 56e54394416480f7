"""Removes or locks shared memory of others.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("shmctl", 0, 14, bytes(128))
"""
    )
    return True
