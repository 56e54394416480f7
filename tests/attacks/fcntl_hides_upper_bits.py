"""Gives fcntl a command whose upper half a filter may not look at: the kernel reads the lower.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("fcntl", 1, (1 << 32) | 8, 1)
"""
    )
    return True
