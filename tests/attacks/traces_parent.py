"""Attaches to the parent as a debugger.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("ptrace", 16, os.getppid(), 0, 0)
"""
    )
    return True
