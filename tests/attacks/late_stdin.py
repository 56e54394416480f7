"""Reads a descriptor that nobody writes to.

Fate: late.
"""

import os
import sys


def solve() -> int:
    os.read(sys._getframe(2).f_locals["incoming"], 1)
    return 1
