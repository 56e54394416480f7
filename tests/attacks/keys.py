"""Reads the session's keys.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("keyctl", 0, -3, 0)
"""
    )
    return True
