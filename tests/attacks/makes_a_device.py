"""Makes a device file for the machine's memory.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        r"""
call("mknodat", -100, CANARY.encode() + b"2\0", 0o20666, 0x101)
"""
    )
    return True
