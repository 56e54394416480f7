"""Changes the root of its mounts.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        r"""
call("pivot_root", b"/\0", b"/\0")
"""
    )
    return True
