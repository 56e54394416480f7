"""Asks for a file's number.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        r"""
call("name_to_handle_at", -100, b"/\0", struct.pack("II", 128, 0) + bytes(128), bytes(4), 0)
"""
    )
    return True
