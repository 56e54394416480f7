"""Uses the ctypes that the worker itself has imported.

Fate: refused.
"""

import os
import sys


def solve() -> bool:
    ctypes = sys.modules["ctypes"]
    return ctypes.CDLL(None).kill(os.getppid(), 9) == 0
