"""The system calls that confined code may not make, refused by the Linux kernel (seccomp), to root
as well."""

import ctypes
import os
import struct

# The refused calls, with their numbers on x86_64 and aarch64 (linux 6.1,
# arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h), in this order:
# other processes; sockets; memory that outlives a process; what Landlock does not control of files;
# limits; the machine.
REFUSED = """
fork 57 -; vfork 58 -; execve 59 221; execveat 322 281; ptrace 101 117; kill 62 129;
tkill 200 130; tgkill 234 131; rt_sigqueueinfo 129 138; rt_tgsigqueueinfo 297 240;
process_vm_readv 310 270; process_vm_writev 311 271; kcmp 312 272;
socket 41 198; socketpair 53 199; bind 49 200; listen 50 201; accept 43 202; accept4 288 242;
connect 42 203; sendto 44 206; sendmsg 46 211; sendmmsg 307 269;
shmget 29 194; shmat 30 196; semget 64 190; msgget 68 186; mq_open 240 180; memfd_create 319 279;
chmod 90 -; fchmod 91 52; fchmodat 268 53; chown 92 -; fchown 93 55; lchown 94 -; fchownat 260 54;
utime 132 -; utimes 235 -; futimesat 261 -; utimensat 280 88; mknod 133 -; mknodat 259 33;
setxattr 188 5; lsetxattr 189 6; fsetxattr 190 7; removexattr 197 14; lremovexattr 198 15;
fremovexattr 199 16;
setrlimit 160 164; prlimit64 302 261; setpriority 141 140; ioprio_set 251 30;
sched_setaffinity 203 122; sched_setscheduler 144 119; sched_setparam 142 118;
sched_setattr 314 274;
chroot 161 51; pivot_root 155 41; mount 165 40; umount2 166 39; unshare 272 97; setns 308 268;
swapon 167 224; swapoff 168 225; reboot 169 142; sethostname 170 161; setdomainname 171 162;
settimeofday 164 170; clock_settime 227 112; adjtimex 159 171; clock_adjtime 305 266; acct 163 89;
quotactl 179 60; ioperm 173 -; iopl 172 -; init_module 175 105; finit_module 313 273;
delete_module 176 106; kexec_load 246 104; kexec_file_load 320 294; bpf 321 280;
perf_event_open 298 241; userfaultfd 323 282; add_key 248 217; request_key 249 218;
keyctl 250 219; name_to_handle_at 303 264; open_by_handle_at 304 265;
"""
# by machine: column of REFUSED, AUDIT_ARCH, number of clone
COLUMNS = {"x86_64": (1, 0xC000003E, 56), "aarch64": (2, 0xC00000B7, 220)}
# From here on the numbers are the same everywhere: pidfd, io_uring, clone3, mount calls. libc can
# do without them.
NEWER = 424
CLONE_THREAD = 0x10000
EPERM, ENOSYS = 1, 38

# classic BPF (linux/bpf_common.h)
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data (linux/seccomp.h)
KILL, ALLOW, ERRNO = 0x80000000, 0x7FFF0000, 0x00050000
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38  # linux/prctl.h
SECCOMP_MODE_FILTER, SIGKILL = 2, 9


def refuse_calls() -> bool:
    """Have the kernel refuse the calls from now on, in this process and all its later threads.
    Returns whether it does."""
    machine = os.uname().machine
    if machine not in COLUMNS:
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


def die_with_parent() -> None:
    """Ask the kernel to kill this process when the thread that started it ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)


def _program(column: int, architecture: int, clone: int) -> bytes:
    """The filter: it allows new threads, refuses new processes and the calls in REFUSED, and allows
    everything else."""
    rows = [entry.split() for entry in REFUSED.split(";") if entry.strip()]
    numbers = [int(row[column]) for row in rows if row[column] != "-"]
    steps = [
        (LOAD, 0, 0, ARCHITECTURE),
        (EQUAL, 1, 0, architecture),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER),
        (AT_LEAST, 0, 1, NEWER),  # x86_64's second set of numbers (x32) as well
        (RETURN, 0, 0, ERRNO | ENOSYS),
        # to the first EPERM
        *((EQUAL, len(numbers) - i + 1, 0, number) for i, number in enumerate(numbers)),
        (EQUAL, 2, 0, clone),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, ERRNO | EPERM),
        (LOAD, 0, 0, FIRST_ARGUMENT),
        (ANY_BIT, 0, 1, CLONE_THREAD),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, ERRNO | EPERM),
    ]
    return b"".join(struct.pack("HBBI", *step) for step in steps)
