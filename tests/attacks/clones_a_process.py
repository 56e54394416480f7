"""Makes a process by clone.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
if call("clone", 17, 0, 0, 0, 0) == 0:
    os._exit(0)
"""
    )
    return True
