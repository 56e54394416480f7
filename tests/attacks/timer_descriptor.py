"""Makes a timer descriptor.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("timerfd_create", 1, 0)
"""
    )
    return True
