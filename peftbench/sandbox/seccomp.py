"""The system calls that confined code may make; the Linux kernel refuses every other (seccomp), to
root as well."""

import ctypes
import os
import struct
import sys
from dataclasses import dataclass

# What the references of MBPP and HumanEval call (traced with strace on glibc), and what else the
# libraries below Python need for memory, files that are read, threads, waiting and clocks (glibc,
# musl). Numbers on x86_64 and aarch64: linux 6.18, arch/x86/entry/syscalls/syscall_64.tbl and
# scripts/syscall.tbl (the older include/uapi/asm-generic/unistd.h).
ALLOWED = """
brk 12 214; mmap 9 222; munmap 11 215; mremap 25 216; mprotect 10 226; madvise 28 233;
read 0 63; write 1 64; readv 19 65; writev 20 66; pread64 17 67; lseek 8 62; close 3 57;
open 2 -; openat 257 56; dup 32 23; dup2 33 -; dup3 292 24; fcntl 72 25; ioctl 16 29;
stat 4 -; fstat 5 80; lstat 6 -; newfstatat 262 79; statx 332 291; access 21 -; faccessat 269 48;
readlink 89 -; readlinkat 267 78; getdents64 217 61; getcwd 79 17;
poll 7 -; ppoll 271 73; select 23 -; pselect6 270 72;
futex 202 98; clone 56 220; exit 60 93; set_robust_list 273 99; rseq 334 293; membarrier 324 283;
set_tid_address 218 96; sched_yield 24 124; sched_getaffinity 204 123; getcpu 309 168;
nanosleep 35 101; clock_nanosleep 230 115; restart_syscall 219 128;
clock_gettime 228 113; clock_getres 229 114; gettimeofday 96 169; time 201 -; times 100 153;
rt_sigaction 13 134; rt_sigprocmask 14 135; rt_sigreturn 15 139; sigaltstack 131 132;
getpid 39 172; gettid 186 178; getppid 110 173; getuid 102 174; geteuid 107 175; getgid 104 176;
getegid 108 177; uname 63 160; sysinfo 99 179; getrusage 98 165; getrlimit 97 163;
prlimit64 302 261; prctl 157 167; getrandom 318 278; exit_group 231 94;
"""


@dataclass(frozen=True)
class Only:
    """A condition for a call: one word of its arguments is one of these values."""

    argument: int
    values: tuple[int, ...]
    # the upper half; of an argument that is an int, the kernel itself reads the lower half only
    upper: bool = False


ONLY = {
    # a new thread, with the flags of glibc's and musl's pthread_create: never a process
    "clone": (Only(0, (0x3D0F00, 0x7D0F00)),),
    # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC; not who gets which signal, no lease
    "fcntl": (Only(1, (0, 1, 2, 3, 1030)),),
    # TCGETS, TCGETS2 and TIOCGWINSZ, for isatty; FIONCLEX, FIOCLEX
    "ioctl": (Only(1, (0x5401, 0x802C542A, 0x5413, 0x5450, 0x5451)),),
    # MADV_DONTNEED, FREE, HUGEPAGE, NOHUGEPAGE, GUARD_INSTALL, GUARD_REMOVE; no poisoned pages
    "madvise": (Only(2, (4, 8, 14, 15, 102, 103)),),
    # MEMBARRIER_CMD_PRIVATE_EXPEDITED and its registration
    "membarrier": (Only(0, (8, 16)),),
    # PR_SET_NAME, PR_GET_NAME: of a thread
    "prctl": (Only(0, (15, 16)),),
    # its own limits, and no new ones: a null pointer
    "prlimit64": (Only(0, (0,)), Only(2, (0,)), Only(2, (0,), upper=True)),
}
# by machine: column of ALLOWED, AUDIT_ARCH
COLUMNS = {"x86_64": (1, 0xC000003E), "aarch64": (2, 0xC00000B7)}
# From here on the numbers are the same everywhere, and the calls so new that libc does without:
# it is told that they do not exist (clone3, openat2, faccessat2, futex_waitv).
NEWER = 424
EPERM, ENOSYS = 1, 38

# classic BPF (linux/bpf_common.h)
LOAD, EQUAL, AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
# offsets in struct seccomp_data (linux/seccomp.h); both machines put the lower half first
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16
KILL, ALLOW, ERRNO = 0x80000000, 0x7FFF0000, 0x00050000
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38  # linux/prctl.h
SECCOMP_MODE_FILTER, SIGKILL = 2, 9

Step = tuple[int, int, int, int]  # an instruction: code, jump if true, jump if false, constant


def refuse_calls() -> bool:
    """Have the kernel refuse all other calls from now on, in this process and its later threads.
    Returns whether it does."""
    machine = os.uname().machine
    if machine not in COLUMNS or sys.maxsize < 1 << 32:  # an interpreter of 32 bits has others
        return False
    program = _program(*COLUMNS[machine])
    buffer = ctypes.create_string_buffer(program)
    # struct sock_fprog
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_ulong]
    return (
        prctl(PR_SET_NO_NEW_PRIVS, 1, None, 0, 0) == 0
        and prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0) == 0
    )


def die_with_parent(parent: int | None) -> None:
    """Ask the kernel to kill this process when the thread that started it ends. parent: the number
    of the process that did, where it is known; if that has ended already, so does this one."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def allowed(column: int) -> dict[str, int]:
    """The numbers of the allowed calls, by name, on the machine of this column."""
    rows = [entry.split() for entry in ALLOWED.split(";") if entry.strip()]
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"}


def _program(column: int, architecture: int) -> bytes:
    """The filter. A call's steps stand together and end in an answer, so that no jump is long."""
    steps: list[Step] = [
        (LOAD, 0, 0, ARCHITECTURE),
        (EQUAL, 1, 0, architecture),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER),
    ]
    for name, number in allowed(column).items():
        answer = [step for only in ONLY.get(name, ()) for step in _unless(only)]
        answer.append((RETURN, 0, 0, ALLOW))
        steps += [(EQUAL, 0, len(answer), number), *answer]
    steps += [
        (AT_LEAST, 0, 1, NEWER),  # x86_64's second set of numbers (x32) as well
        (RETURN, 0, 0, ERRNO | ENOSYS),
        (RETURN, 0, 0, ERRNO | EPERM),
    ]
    return b"".join(struct.pack("HBBI", *step) for step in steps)


def _unless(only: Only) -> list[Step]:
    """Refuse the call unless the condition holds."""
    word = ARGUMENTS + 8 * only.argument + 4 * only.upper
    matches = [
        (EQUAL, len(only.values) - place, 0, value) for place, value in enumerate(only.values)
    ]
    return [(LOAD, 0, 0, word), *matches, (RETURN, 0, 0, ERRNO | EPERM)]
