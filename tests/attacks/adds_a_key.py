"""Adds a key.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        r"""
call("add_key", b"user\0", b"x\0", b"x", 1, -3)
"""
    )
    return True
