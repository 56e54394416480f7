"""Opens another's file to write.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        r"""
file = call("openat", -100, CANARY.encode() + b"\0", 1, 0)
os.write(file, b"x")
"""
    )
    return True
