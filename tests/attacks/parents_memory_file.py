"""Reads the parent's memory through /proc.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        r"""
call("openat", -100, f"/proc/{os.getppid()}/mem\0".encode(), 0, 0)
"""
    )
    return True
