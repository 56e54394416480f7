"""Makes shared memory that outlives it.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("shmget", 0x5EC2E7, 1 << 20, 0o1666)
"""
    )
    return True
