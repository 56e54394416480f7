"""Starts an interval timer.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("setitimer", 0, struct.pack("qqqq", 0, 1000, 0, 1000), 0)
"""
    )
    return True
