"""Moves a file.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        r"""
call("renameat2", -100, CANARY.encode() + b"\0", -100, CANARY.encode() + b"2\0", 0)
"""
    )
    return True
