"""Writes a database: its library opens files by itself.

Fate: refused or error.
"""

import sqlite3

from attack_tools import CANARY


def solve() -> bool:
    with sqlite3.connect(CANARY + "2") as connection:
        connection.execute("create table t (x)")
    return True
