"""Makes a socket of the family AF_INET6.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("socket", 10, 2, 0)
"""
    )
    return True
