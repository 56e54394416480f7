"""Enters a new namespace of users, for new rights.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("unshare", 0x10000000)
"""
    )
    return True
