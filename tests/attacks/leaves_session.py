"""Leaves its session, to outlive its group.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("setsid")
"""
    )
    return True
