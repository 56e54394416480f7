"""Takes precedence on the processor.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("setpriority", 0, 0, -20)
"""
    )
    return True
