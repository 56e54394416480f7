"""Becomes root.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("setresuid", 0, 0, 0)
"""
    )
    return True
