"""A user of its own for a confined process: it is no longer root, no other process is of the same
user, and the kernel counts its tasks apart from all others."""

import _thread
import contextlib
import ctypes
import os
import resource
import struct

CLONE_NEWUSER = 0x10000000
PR_SET_KEEPCAPS = 8
CAPABILITY_VERSION = 0x20080522  # linux/capability.h, _LINUX_CAPABILITY_VERSION_3
# to find a library below a folder that is root's alone, such as /root
READ_ANYTHING = 1 << 2  # CAP_DAC_READ_SEARCH
# 2^28 numbers that nobody gives to users (systemd.io/UIDS-GIDS, "unused")
FIRST_USER, USERS = 0x70000000, 1 << 28


def own_user() -> bool:
    """Root becomes a user with a number that no other process has; anybody else enters a user
    namespace. All capabilities are dropped but that to read, which only root had. Returns whether
    the kernel now counts this process's tasks apart. To be called before the first thread."""
    libc = ctypes.CDLL(None, use_errno=True)
    apart = False
    if os.geteuid() == 0:
        number = FIRST_USER + int.from_bytes(os.urandom(8)) % USERS
        libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
        with contextlib.suppress(OSError):  # not allowed, or no such number in this namespace
            os.setgroups([])
            os.setresgid(number, number, number)
            os.setresuid(number, number, number)
            apart = True
    apart = apart or libc.unshare(CLONE_NEWUSER) == 0
    header = struct.pack("Ii", CAPABILITY_VERSION, 0)
    for capabilities in (READ_ANYTHING, 0):
        # effective, permitted, inheritable: their lower halves, then their upper ones
        if libc.capset(header, struct.pack("6I", capabilities, capabilities, 0, 0, 0, 0)) == 0:
            break
    return apart


def limit_tasks(tasks: int) -> bool:
    """Limit the threads and processes of this user. Returns whether the kernel keeps to it: it
    does not for the machine's own root."""
    resource.setrlimit(resource.RLIMIT_NPROC, (0, tasks))
    try:
        _thread.start_new_thread(int, ())
        binding = False
    except RuntimeError:
        binding = True
    resource.setrlimit(resource.RLIMIT_NPROC, (tasks, tasks))
    return binding
