"""Ends by a fault that a handler of Python's reports.

Fate: ended.
"""

import faulthandler
import os


def solve() -> bool:
    faulthandler.enable(os.open("/dev/null", os.O_WRONLY))
    faulthandler._read_null()  # type: ignore[attr-defined]
    return True
