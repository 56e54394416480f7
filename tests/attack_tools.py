"""What attacks share. Its text stands before an attack's in the program that is executed: in there
nothing of ours can be imported."""

import builtins
import platform
import re

CANARY = "the path of a file that everybody may read and write"

# numbers of system calls on x86_64 and aarch64 (linux 6.18)
_NUMBERS = """
acct 163 89; add_key 248 217; bpf 321 280; capset 126 91; chroot 161 51; clock_settime 227 112;
clone 56 220; clone3 435 435; epoll_create1 291 20; execve 59 221; fallocate 285 47;
fanotify_init 300 262; fchmodat 268 53; fcntl 72 25; fork 57 -; ftruncate 77 46;
init_module 175 105; inotify_init1 294 26; io_uring_setup 425 425; ioctl 16 29; ioprio_set 251 30;
keyctl 250 219; kill 62 129; linkat 265 37; madvise 28 233; memfd_create 319 279; mknodat 259 33;
mount 165 40; mq_open 240 180; msgget 68 186; name_to_handle_at 303 264;
open_by_handle_at 304 265; openat 257 56; perf_event_open 298 241; personality 135 92;
pidfd_open 434 434; pidfd_send_signal 424 424; pipe2 293 59; pivot_root 155 41; prctl 157 167;
prlimit64 302 261; process_vm_readv 310 270; process_vm_writev 311 271; ptrace 101 117;
renameat2 316 276; rt_sigqueueinfo 129 138; rt_tgsigqueueinfo 297 240; sched_setaffinity 203 122;
sched_setscheduler 144 119; seccomp 317 277; semget 64 190; sendfile 40 71; setitimer 38 103;
setns 308 268; setpriority 141 140; setresuid 117 147; setsid 112 157; setxattr 188 5;
shmctl 31 195; shmget 29 194; socket 41 198; socketpair 53 199; swapoff 168 225; symlinkat 266 36;
syslog 103 116; tgkill 234 131; timer_create 222 107; timerfd_create 283 85; truncate 76 45;
umask 95 166; unlinkat 263 35; unshare 272 97; userfaultfd 323 282; utimensat 280 88; vfork 58 -;
vmsplice 278 75;
"""
_START = """
import ctypes, os, platform, struct
libc = ctypes.CDLL(None, use_errno=True)
column = {"x86_64": 1, "aarch64": 2}[platform.machine()]
numbers = {row.split()[0]: row.split()[column] for row in NUMBERS.split(";") if row.strip()}
def call(name, *arguments):
    words = [value if isinstance(value, bytes) else ctypes.c_long(value) for value in arguments]
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(int(numbers[name])), *words)
    if result == -1:
        raise OSError(ctypes.get_errno(), name)
    return result
"""


def native(source: str) -> None:
    """Run `source` where no audit hook is (those that Python code adds belong to one interpreter
    each). There, `call` makes a system call by its name, and raises OSError if the kernel does not.
    What `source` raises is raised here."""
    source = f"NUMBERS = {_NUMBERS!r}\nCANARY = {CANARY!r}\n{_START}\n{source}"
    try:
        import _interpreters  # type: ignore[import-not-found]

        info = _interpreters.run_string(_interpreters.create("legacy"), source)
        text = info and f"{info.type.__name__}: {info.msg}"
    except ImportError:
        import _xxsubinterpreters as interpreters  # type: ignore[import-not-found]

        try:
            interpreter = interpreters.create(isolated=False)
        except TypeError:  # Python 3.11 has one kind only
            interpreter = interpreters.create()
        try:
            text = interpreters.run_string(interpreter, source)
        except interpreters.RunFailedError as error:
            text = re.sub(r"<class '(\w+)'>", r"\1", str(error))
    if text:
        kind, _, message = text.partition(": ")
        raise getattr(builtins, kind, RuntimeError)(message)


def other_calls() -> bool:
    """Whether this machine has calls that newer architectures lack (fork, vfork)."""
    return platform.machine() == "x86_64"
