"""Makes a file without a name: O_TMPFILE.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        r"""
call("openat", -100, os.path.dirname(CANARY).encode() + b"\0", 0o20200002, 0o666)
"""
    )
    return True
