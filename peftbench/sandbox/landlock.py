"""The files that the kernel lets confined code read, root included (Landlock, linux 5.13); it lets
it write none. Newer kernels also keep its signals and its sockets inside."""

import ctypes
import os
import stat
import struct
from collections.abc import Iterable

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same numbers on every architecture
VERSION, PATH_BENEATH = 1, 1
WRITE_FILE, READ_FILE, READ_DIR = 2, 4, 8  # linux/landlock.h, LANDLOCK_ACCESS_FS_*
ACCESS = {1: 13, 2: 14, 3: 15, 4: 15}  # by version of the interface: kinds of access to files
NEWEST_ACCESS = 16
NET, SCOPED = 4, 6  # since which version: TCP ports; abstract Unix sockets and signals
PR_SET_NO_NEW_PRIVS = 38


def only_read(files: Iterable[str], listed: Iterable[str]) -> bool:
    """From now on this process may only read `files`, with the content of folders among them, and
    list the folders `listed`. Returns whether the kernel ensures that."""
    if version() < 1:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    attributes = _ruleset(version())
    ruleset = libc.syscall(CREATE_RULESET, attributes, len(attributes), 0)
    allowed = [(os.devnull, READ_FILE | WRITE_FILE), *((folder, READ_DIR) for folder in listed)]
    for file, access in (*allowed, *((file, READ_FILE | READ_DIR) for file in files)):
        try:
            descriptor = os.open(file, os.O_PATH)
        except OSError:  # what does not exist need not be allowed
            continue
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            access &= ~READ_DIR
        rule = struct.pack("=Qi", access, descriptor)
        libc.syscall(ADD_RULE, ruleset, PATH_BENEATH, rule, 0)
        os.close(descriptor)
    done = (
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
        and libc.syscall(RESTRICT_SELF, ruleset, 0) == 0
    )
    os.close(ruleset)
    return done


def version() -> int:
    """Of the kernel's Landlock; below 1 where there is none."""
    return ctypes.CDLL(None, use_errno=True).syscall(CREATE_RULESET, None, 0, VERSION)


def _ruleset(number: int) -> bytes:
    """What is refused unless a rule allows it, all that the version with this number knows: struct
    landlock_ruleset_attr (files, TCP, scopes), which older versions cut short."""
    refused = [(1 << ACCESS.get(number, NEWEST_ACCESS)) - 1]
    if number >= NET:
        refused.append(0b11)  # to bind and to connect
    if number >= SCOPED:
        refused.append(0b11)  # sockets, signals
    return struct.pack(f"{len(refused)}Q", *refused)
