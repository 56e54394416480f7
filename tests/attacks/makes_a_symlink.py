"""Makes a symbolic link.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        r"""
call("symlinkat", b"/etc\0", -100, CANARY.encode() + b"2\0")
"""
    )
    return True
