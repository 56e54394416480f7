"""Sleeps.

Fate: late.
"""

import time


def solve() -> int:
    time.sleep(60)
    return 1
