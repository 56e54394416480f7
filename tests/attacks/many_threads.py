"""Starts 10,000 threads of Python's.

Fate: wrong.
"""

import threading
import time


def solve() -> bool:
    threading.stack_size(1 << 15)
    started = 0
    try:
        for _ in range(10_000):
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
            started += 1
    except RuntimeError:  # can't start new thread
        pass
    return started > 100
