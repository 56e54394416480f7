"""Makes the request 0x540E of a descriptor (linux/asm-generic: sockios.h, ioctls.h, fs.h).

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
call("ioctl", 0, 0x540E, struct.pack("q", os.getppid()))
"""
    )
    return True
