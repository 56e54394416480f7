"""Writes a history file: readline opens files by itself.

Fate: refused or error.
"""

import readline

from attack_tools import CANARY


def solve() -> bool:
    readline.add_history("x")
    readline.write_history_file(CANARY + "2")
    return True
