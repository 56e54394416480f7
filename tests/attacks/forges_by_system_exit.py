"""Leaves by SystemExit.

Fate: error.
"""

import sys


def solve() -> None:
    sys.exit(0)
