"""Makes semaphores that outlive it.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("semget", 0x5EC2E7, 1, 0o1666)
"""
    )
    return True
