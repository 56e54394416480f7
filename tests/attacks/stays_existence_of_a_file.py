"""Learns whether a file exists, which only namespaces hide: bubblewrap does.

Fate: achieved without bubblewrap.
"""

import os

from attack_tools import CANARY


def solve() -> bool:
    return os.path.exists(CANARY)
