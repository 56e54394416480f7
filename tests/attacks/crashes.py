"""Ends by a memory fault.

Fate: ended.
"""

from attack_tools import native


def solve() -> bool:
    native("ctypes.string_at(1)")
    return True
