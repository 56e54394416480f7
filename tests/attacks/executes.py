"""Becomes another program.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        r"""
call("execve", b"/bin/true\0", struct.pack("Q", 0), struct.pack("Q", 0))
"""
    )
    return True
