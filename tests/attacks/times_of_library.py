"""Changes the times of a library's file.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        r"""
call("utimensat", -100, os.__file__.encode() + b"\0", 0, 0)
"""
    )
    return True
