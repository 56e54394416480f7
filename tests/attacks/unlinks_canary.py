"""Removes a file.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        r"""
call("unlinkat", -100, CANARY.encode() + b"\0", 0)
"""
    )
    return True
