"""Reads another's file.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        r"""
file = call("openat", -100, CANARY.encode() + b"\0", 0, 0)
os.read(file, 9)
"""
    )
    return True
