"""Makes a socket of the family AF_NETLINK.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("socket", 16, 2, 0)
"""
    )
    return True
