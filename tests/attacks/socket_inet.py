"""Makes a socket of the family AF_INET.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("socket", 2, 2, 0)
"""
    )
    return True
