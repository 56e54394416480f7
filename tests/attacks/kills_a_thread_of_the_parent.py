"""Sends SIGKILL to the parent's first thread.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("tgkill", os.getppid(), os.getppid(), 9)
"""
    )
    return True
