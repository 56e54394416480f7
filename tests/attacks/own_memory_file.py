"""Writes its own memory through /proc.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        r"""
call("openat", -100, b"/proc/self/mem\0", 2, 0)
"""
    )
    return True
