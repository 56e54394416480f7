"""Makes a thread in a network of its own: clone with CLONE_THREAD and CLONE_NEWNET.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("clone", 0x3D0F00 | 0x40000000, 0, 0, 0, 0)
"""
    )
    return True
