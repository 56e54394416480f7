"""Takes back its rights as root.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("capset", struct.pack("Ii", 0x20080522, 0), struct.pack("6i", -1, -1, -1, -1, -1, -1))
"""
    )
    return True
