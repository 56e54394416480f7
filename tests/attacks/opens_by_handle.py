"""Opens a file by its number, whatever folder it is in.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("open_by_handle_at", 0, struct.pack("II", 8, 1) + struct.pack("II", 2, 0), 0)
"""
    )
    return True
