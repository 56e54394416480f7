"""Makes a call by the numbers of another set (x32).

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
if libc.syscall(ctypes.c_long((1 << 30) + 39)) == -1:
    raise OSError(ctypes.get_errno(), "x32")
"""
    )
    return True
