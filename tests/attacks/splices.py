"""Moves memory into a pipe without copying.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("vmsplice", 1, bytes(16), 1, 0)
"""
    )
    return True
