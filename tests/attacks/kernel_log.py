"""Reads the kernel's log.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("syslog", 10, 0, 0)
"""
    )
    return True
