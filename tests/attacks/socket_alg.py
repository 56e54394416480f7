"""Makes a socket of the family AF_ALG.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("socket", 38, 2, 0)
"""
    )
    return True
