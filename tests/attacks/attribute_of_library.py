"""Gives a library's file an extended attribute.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        r"""
call("setxattr", os.__file__.encode() + b"\0", b"user.x\0", b"x", 1, 0)
"""
    )
    return True
