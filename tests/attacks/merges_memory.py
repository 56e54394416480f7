"""Has its pages merged with others' that are equal, which tells what those hold:
MADV_MERGEABLE.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
import mmap
page = mmap.mmap(-1, 4096)
call("madvise", ctypes.addressof(ctypes.c_char.from_buffer(page)), 4096, 12)
"""
    )
    return True
