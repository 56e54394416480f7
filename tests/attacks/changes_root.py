"""Changes its root folder.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        r"""
call("chroot", b"/\0")
"""
    )
    return True
