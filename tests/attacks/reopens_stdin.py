"""Opens its job anew, to write.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        r"""
call("openat", -100, b"/proc/self/fd/0\0", 2, 0)
"""
    )
    return True
