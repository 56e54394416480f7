"""Makes a file.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        r"""
call("openat", -100, CANARY.encode() + b"2\0", 0o101, 0o666)
"""
    )
    return True
