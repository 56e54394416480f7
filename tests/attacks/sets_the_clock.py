"""Sets the clock.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("clock_settime", 0, 0)
"""
    )
    return True
