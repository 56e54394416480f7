"""Takes a lease on a library's file, so that whoever opens it waits: F_SETLEASE.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
file = os.open(os.__file__, os.O_RDONLY)
call("fcntl", file, 1024, 0)
"""
    )
    return True
