"""Adds a filter of its own, which could answer in the kernel's place.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("seccomp", 1, 8, 0)
"""
    )
    return True
