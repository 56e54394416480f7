"""Makes a process by clone3, whose flags a filter cannot see.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
if call("clone3", struct.pack("Q" * 8, 0, 0, 0, 0, 17, 0, 0, 0), 64) == 0:
    os._exit(0)
"""
    )
    return True
