"""Sends SIGKILL to every process that it may.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("kill", -1, 9)
"""
    )
    return True
