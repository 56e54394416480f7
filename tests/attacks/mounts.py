"""Mounts a file system.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        r"""
call("mount", b"none\0", b"/tmp\0", b"tmpfs\0", 0, 0)
"""
    )
    return True
