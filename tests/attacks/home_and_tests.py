"""Reads a home folder and the suite's own tests.

Fate: refused.
"""

import os
import sys


def solve() -> bool:
    root = sys.modules["peftbench"].__file__.removesuffix("peftbench/__init__.py")  # type: ignore[union-attr]
    for place in ("/root", root, root + "tests", root + "tests/attacked.py"):
        try:
            found = os.listdir(place) if not place.endswith(".py") else os.open(place, os.O_RDONLY)
        except (PermissionError, FileNotFoundError):
            continue
        return bool(found)
    raise PermissionError("none can be read")
