"""Cuts a file by its name, without opening it.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        r"""
call("truncate", CANARY.encode() + b"\0", 0)
"""
    )
    return True
