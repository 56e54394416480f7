"""Waits for what never comes.

Fate: late.
"""

import threading


def solve() -> int:
    threading.Event().wait()
    return 1
