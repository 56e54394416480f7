"""Reads the parent's environment, where a token may be.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        r"""
call("openat", -100, f"/proc/{os.getppid()}/environ\0".encode(), 0, 0)
"""
    )
    return True
