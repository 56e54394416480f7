"""Handles page faults, the way into many kernel holes.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("userfaultfd", 0)
"""
    )
    return True
