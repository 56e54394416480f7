"""Makes a POSIX message queue.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        r"""
call("mq_open", b"peftbench\0", 0o102, 0o666, 0)
"""
    )
    return True
