"""Maps memory without end.

Fate: error.
"""

import mmap


def solve() -> int:
    maps = []
    while True:
        maps.append(mmap.mmap(-1, 1 << 24))
