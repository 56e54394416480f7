"""Has itself traced: PTRACE_TRACEME.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("ptrace", 0, 0, 0, 0)
"""
    )
    return True
