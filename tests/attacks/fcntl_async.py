"""Asks for signals when a descriptor can be read: F_SETFL with O_ASYNC.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("fcntl", 0, 4, 0o20000)
"""
    )
    return True
