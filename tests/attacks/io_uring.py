"""Makes a ring whose requests no filter sees.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("io_uring_setup", 8, bytes(120))
"""
    )
    return True
