"""Loads a kernel module.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        r"""
call("init_module", 0, 0, b"\0")
"""
    )
    return True
