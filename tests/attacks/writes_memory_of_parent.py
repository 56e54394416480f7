"""Writes the parent's memory.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("process_vm_writev", os.getppid(), bytes(16), 1, bytes(16), 1, 0)
"""
    )
    return True
