"""Makes a pair of sockets, which could pass descriptors on.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("socketpair", 1, 1, 0, bytes(8))
"""
    )
    return True
