"""Reads a certificate: its library opens files by itself.

Fate: refused or error.
"""

import ssl

from attack_tools import CANARY


def solve() -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(CANARY)
    except ssl.SSLError:
        return True  # it was read, and is no certificate
    return True
