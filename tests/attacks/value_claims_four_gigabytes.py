"""Announces a message of four gigabytes.

Fate: error.
"""

import os
import sys


def solve() -> None:
    os.write(sys._getframe(2).f_locals["outgoing"], b"\xff" * 64)
