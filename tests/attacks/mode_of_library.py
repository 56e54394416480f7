"""Changes the mode of a library's file.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        r"""
call("fchmodat", -100, os.__file__.encode() + b"\0", 0o777)
"""
    )
    return True
