"""Becomes a real-time process, which nothing displaces.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("sched_setscheduler", 0, 1, struct.pack("i", 99))
"""
    )
    return True
