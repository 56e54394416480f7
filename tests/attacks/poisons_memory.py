"""Marks memory of the machine as broken: MADV_HWPOISON.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
import mmap
page = mmap.mmap(-1, 4096)
page[0] = 1
call("madvise", ctypes.addressof(ctypes.c_char.from_buffer(page)), 4096, 100)
"""
    )
    return True
