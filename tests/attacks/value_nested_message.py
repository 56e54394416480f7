"""Sends a message nested 100,000 deep.

Fate: error.
"""

import os
import sys


def solve() -> None:
    worker = sys.modules["peftbench.sandbox.worker"]
    data = b"[" * 100_000
    frame = sys._getframe(2)
    assert worker
    os.write(frame.f_locals["outgoing"], len(data).to_bytes(4, "big") + data)
