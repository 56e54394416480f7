"""Makes a pipe: memory that no limit counts.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("pipe2", bytes(8), 0)
"""
    )
    return True
