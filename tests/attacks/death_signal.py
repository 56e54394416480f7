"""Chooses another signal for the death of the parent: PR_SET_PDEATHSIG, none.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("prctl", 1, 0, 0, 0, 0)
"""
    )
    return True
