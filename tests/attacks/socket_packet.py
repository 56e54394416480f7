"""Makes a socket of the family AF_PACKET.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("socket", 17, 2, 0)
"""
    )
    return True
