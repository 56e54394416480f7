"""Makes a socket of the family AF_VSOCK.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("socket", 40, 2, 0)
"""
    )
    return True
