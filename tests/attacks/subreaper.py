"""Adopts what its parent leaves: PR_SET_CHILD_SUBREAPER.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("prctl", 36, 1, 0, 0, 0)
"""
    )
    return True
