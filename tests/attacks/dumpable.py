"""Makes itself open to others' tracing: PR_SET_DUMPABLE, PR_SET_PTRACER.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("prctl", 4, 1, 0, 0, 0)
call("prctl", 0x59616D61, -1, 0, 0, 0)
"""
    )
    return True
