"""Answers a generator without end, made a list.

Fate: error or ended or late.
"""

import itertools


def solve() -> list[int]:
    return list(itertools.count())
