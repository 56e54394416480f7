"""Ignores the signal that says that time is up.

Fate: ended or late.
"""

import signal


def solve() -> int:
    signal.signal(signal.SIGXCPU, signal.SIG_IGN)
    while True:
        pass
