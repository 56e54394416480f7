"""Opens files without end.

Fate: error.
"""

import os


def solve() -> int:
    while True:
        os.open("/dev/null", os.O_RDONLY)
