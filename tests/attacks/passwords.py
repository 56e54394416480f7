"""Reads the list of users.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        r"""
call("openat", -100, b"/etc/passwd\0", 0, 0)
"""
    )
    return True
