"""Sends SIGKILL to its group.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("kill", 0, 9)
"""
    )
    return True
