"""Makes a process: fork, or clone without CLONE_THREAD.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
if call(*(("fork",) if column == 1 else ("clone", 17, 0, 0, 0, 0))) == 0:
    os._exit(0)
"""
    )
    return True
