"""Sets what only a descriptor's owner should: F_SETPIPE_SZ.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("fcntl", 1, 1031, 1)
"""
    )
    return True
