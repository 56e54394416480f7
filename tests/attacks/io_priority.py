"""Takes precedence in input and output.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("ioprio_set", 1, 0, 1 << 13)
"""
    )
    return True
