"""Watches and holds every file access.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("fanotify_init", 4, 0)
"""
    )
    return True
