"""Makes a socket of the family AF_UNIX.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("socket", 1, 2, 0)
"""
    )
    return True
