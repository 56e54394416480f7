"""Takes another personality, without random addresses.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("personality", 0x0040000)
"""
    )
    return True
