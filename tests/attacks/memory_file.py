"""Makes a file in memory.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        r"""
call("memfd_create", b"x\0", 0)
"""
    )
    return True
