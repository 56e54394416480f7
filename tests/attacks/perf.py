"""Counts what the processor does.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("perf_event_open", struct.pack("IIQ", 1, 120, 0) + bytes(104), 0, -1, -1, 0)
"""
    )
    return True
