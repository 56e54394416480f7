"""Sends a signal by a descriptor.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("pidfd_send_signal", 0, 9, 0, 0)
"""
    )
    return True
