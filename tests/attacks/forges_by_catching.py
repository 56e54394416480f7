"""Catches every exception around itself and around the worker.

Fate: wrong.
"""

import sys


def solve() -> int:
    try:
        raise AssertionError
    except BaseException:
        sys.exc_info()
        return 1
