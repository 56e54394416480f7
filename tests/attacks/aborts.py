"""Ends by SIGABRT.

Fate: ended.
"""

import os


def solve() -> bool:
    os.abort()
