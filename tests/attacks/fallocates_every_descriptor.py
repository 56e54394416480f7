"""Makes room in every descriptor.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
for number in range(64):
    try:
        call("fallocate", number, 0, 0, 1 << 20)
        break
    except OSError as error:
        if error.errno not in (1, 38):
            raise ValueError(error) from None
else:
    raise PermissionError("every one")
"""
    )
    return True
