"""Computes without end when it should leave.

Fate: error.
"""

import atexit
import sys


def solve() -> int:
    atexit.register(loop)  # an exit handler: the worker runs none
    sys.exit(0)


def loop() -> None:
    while True:
        pass
