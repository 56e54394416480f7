"""Lifts its own limit on memory.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("prlimit64", 0, 9, struct.pack("qq", -1, -1), 0)
"""
    )
    return True
