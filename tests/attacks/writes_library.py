"""Opens a library's file to write.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        r"""
call("openat", -100, os.__file__.encode() + b"\0", 2, 0)
"""
    )
    return True
