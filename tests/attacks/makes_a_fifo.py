"""Makes a FIFO, which Python's audit events do not know.

Fate: refused.
"""

import os

from attack_tools import CANARY


def solve() -> bool:
    os.mkfifo(CANARY + "2")
    return True
