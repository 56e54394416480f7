"""Makes a message queue that outlives it.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("msgget", 0x5EC2E7, 0o1666)
"""
    )
    return True
