"""Makes a function of an address by _ctypes, without ctypes.

Fate: refused or error.
"""

import sys


def solve() -> bool:
    core = sys.modules["_ctypes"]
    return core.call_function(core.dlsym(core.dlopen(None, 0), "getppid"), ()) > 0
