"""Computes in many threads.

Fate: ended or late or error.
"""

import threading


def solve() -> int:
    for _ in range(40):
        threading.Thread(target=loop, daemon=True).start()
    loop()
    return 1


def loop() -> None:
    while True:
        pass
