"""Limits the parent's open files.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("prlimit64", os.getppid(), 7, struct.pack("QQ", 3, 3), 0)
"""
    )
    return True
