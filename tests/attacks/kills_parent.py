"""Sends SIGKILL to the parent.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("kill", os.getppid(), 9)
"""
    )
    return True
