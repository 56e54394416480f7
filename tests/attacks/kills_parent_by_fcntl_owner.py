"""Makes the parent the owner of a pipe and has the kernel send it SIGKILL when the pipe moves.

Fate: refused.
"""

import fcntl
import os
import stat


def solve() -> bool:
    pipes = [number for number in range(64) if is_pipe(number)]
    for number in pipes:
        fcntl.fcntl(number, fcntl.F_SETOWN, os.getppid())
        fcntl.fcntl(number, 10, 9)  # F_SETSIG, SIGKILL
        fcntl.fcntl(number, fcntl.F_SETFL, os.O_ASYNC)
    return bool(pipes)


def is_pipe(number: int) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(number).st_mode)
    except OSError:
        return False
