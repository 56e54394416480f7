"""Leaves a thread that runs on, and never answers.

Fate: late.
"""

import threading
import time


def solve() -> int:
    thread = threading.Thread(target=time.sleep, args=(60,))
    thread.start()
    thread.join()
    return 1
