"""Slows the parent down.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("setpriority", 0, os.getppid(), 19)
"""
    )
    return True
