"""Asks for signals when a folder changes: F_NOTIFY.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
folder = os.open(os.path.dirname(os.__file__), os.O_RDONLY)
call("fcntl", folder, 1026, 1 << 31 | 1)
"""
    )
    return True
