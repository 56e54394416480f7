"""Opens the parent as a descriptor to send it signals.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("pidfd_open", os.getppid(), 0)
"""
    )
    return True
