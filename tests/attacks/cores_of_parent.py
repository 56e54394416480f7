"""Binds the parent to one core.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("sched_setaffinity", os.getppid(), 8, struct.pack("Q", 1))
"""
    )
    return True
