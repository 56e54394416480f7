"""Backtracks in a regular expression, in C, where no signal handler runs.

Fate: ended or late.
"""

import re


def solve() -> int:
    return bool(re.match(r"(a+)+$", "a" * 60 + "b"))
