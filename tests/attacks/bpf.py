"""Loads a program into the kernel.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("bpf", 0, bytes(72), 72)
"""
    )
    return True
