"""Sets what only a descriptor's owner should: F_SETOWN_EX.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("fcntl", 1, 15, struct.pack("qqq", 1, 1, 1))
"""
    )
    return True
