"""Enters another's namespace.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("setns", 0, 0)
"""
    )
    return True
