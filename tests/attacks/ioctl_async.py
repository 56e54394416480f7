"""Makes the request 0x5452 of a descriptor (linux/asm-generic: sockios.h, ioctls.h, fs.h).

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("ioctl", 0, 0x5452, struct.pack("q", os.getppid()))
"""
    )
    return True
