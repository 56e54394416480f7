"""Makes a timer whose signal goes to another process's thread: SIGEV_THREAD_ID.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("timer_create", 0, struct.pack("qiii", 0, 9, 4, os.getppid()) + bytes(44), bytes(8))
"""
    )
    return True
