"""Watches files.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("inotify_init1", 0)
"""
    )
    return True
