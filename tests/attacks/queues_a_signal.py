"""Sends the parent a signal with a value.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("rt_sigqueueinfo", os.getppid(), 9, struct.pack("iiii", 9, 0, -1, 0) + bytes(112))
"""
    )
    return True
