"""Running generated code, which can neither harm the machine nor pass without the right values."""

import contextlib
import functools
import json
import math
import os
import selectors
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftbench.errors import InputError

CONFINED = Path(__file__).parent
ROOT = CONFINED.parent.parent  # what `peftbench` is imported from
START = (
    "import sys; sys.path.insert(0, {root!r}); from peftbench.sandbox.{role} import main; "
    "sys.path.pop(0); main({incoming}, {outgoing})"
)
FENCES = {"landlock", "seccomp", "bubblewrap"}  # layers that are the kernel's
AUDIT_HOOK_ONLY = "audit hook only"
LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
LIBRARIES += ("/etc/ld.so.cache", "/usr/share/zoneinfo", "/dev/urandom")


@dataclass(frozen=True)
class Execution:
    """Whether a solution passed its tests."""

    passed: bool
    reason: str  # "passed", or the first error
    layers: list[str]  # of confinement, as the judge reports them


def execute(
    solution: str,
    test: str,
    *,
    setup: str = "",
    remote: Sequence[str],
    seconds: float = 3.0,
    memory_bytes: int = 1 << 30,
) -> Execution:
    """Run `test`, Python source, against `solution`, which passes if no exception ends the test.

    A solution never meets its tests. It runs in one process (the worker), the tests in another (the
    judge); the tests call the solution's functions through a pipe, and the values that come back
    are rebuilt from Python's plain types. So a pass cannot be forged by leaving early, patching
    builtins, swallowing exceptions, overloading `==`, or looking for the tests or a verdict in
    memory: the worker has neither. Differences from running both in one interpreter: arguments and
    results are copies, so that a change of an argument in place is not seen; what is not None,
    bool, int, float, complex, str, bytes, list, tuple, set or dict stays in the worker, and all
    that a test can do with it is to read and set its attributes, to go through its items, to pass
    it back and to find it equal to itself; any file written is an error.

    setup: trusted source that the test needs, run before it in its own process. remote: the
    solution's functions that the test may call, by name; they hide what `setup` defines under these
    names. seconds: of processor time for each side; four times as long by the clock, since the
    machine may be busy. What either side prints is lost.
    """
    tests = {"setup": setup, "test": test, "remote": [*remote]}
    return _judged(_wrapper(), solution, tests, seconds, memory_bytes)


def confinement() -> str:
    """The layers that confine code here, joined by +, as a record names them:
    "bubblewrap+landlock+rlimits+seccomp+tasks", or AUDIT_HOOK_ONLY. Raises InputError where even a
    correct program fails.

    Both processes have an empty environment and, as far as the platform has it: rlimits on memory,
    processor time, files and their size; a user of their own, whose tasks the kernel counts and
    limits (tasks); Landlock, which leaves the standard library and system libraries to read and
    nothing to write; and seccomp, which refuses every system call but those that computing needs.
    Where bubblewrap is installed and may be used, it adds namespaces of their own. A Python audit
    hook refuses the same, but is no fence: it tells a program early, in Python's words.

    What remains possible, with every layer: a hole in the kernel or the processor; to learn what
    the kernel says of the machine (its memory, how busy it is), and from one's own speed what
    others do on it, all of which only a virtual machine stops; without bubblewrap, to learn
    whether a file exists, but nothing of what is in it; and to use up the time and the memory that
    the limits leave to each of the two processes. Without "tasks" (the machine's own root that may
    not change its user), so many threads that the machine has no numbers left for new processes,
    until time is up.
    """
    layers = _layers(_wrapper())
    if not layers:
        raise InputError("the sandbox does not work here: a correct program fails in it")
    return "+".join(sorted(layers)) if FENCES.intersection(layers) else AUDIT_HOOK_ONLY


def confined() -> bool:
    """Whether the kernel itself confines code here: seccomp, with Landlock or bubblewrap for the
    files. Less is called no confinement: seccomp alone leaves every file to read, and without it
    processes, sockets and signals remain."""
    layers = {*_layers(_wrapper())}
    return "seccomp" in layers and not layers.isdisjoint({"landlock", "bubblewrap"})


@functools.cache
def _wrapper() -> tuple[str, ...]:
    """The command that the processes are started with: bubblewrap's where it is installed and
    works, else none."""
    bubblewrap = shutil.which("bwrap")
    if bubblewrap is None:
        return ()
    visible = [flag for path in LIBRARIES for flag in ("--ro-bind-try", path, path)]
    for path in (sys.base_prefix, str(CONFINED.parent / "__init__.py"), str(CONFINED)):
        visible += ["--ro-bind", path, path]
    # root can become a user of its own only where it is in no namespace of users
    without_users = [f"--unshare-{kind}" for kind in ("ipc", "pid", "net", "uts", "cgroup-try")]
    without_users += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    for namespaces in ([without_users] if os.geteuid() == 0 else []) + [["--unshare-all"]]:
        flags = (*namespaces, "--die-with-parent", "--new-session")
        wrapper = (bubblewrap, *flags, *visible, "--dev", "/dev", "--chdir", "/", "--")
        if _layers(wrapper):
            return wrapper
    return ()


@functools.cache
def _layers(wrapper: tuple[str, ...]) -> list[str]:
    """The layers in force under `wrapper`; none if a correct solution does not pass there."""
    tests = {"setup": "", "test": "assert one() == 1", "remote": ["one"]}
    execution = _judged(wrapper, "def one():\n    return 1\n", tests, 3.0, 1 << 30)
    if not execution.passed:
        return []
    return [*execution.layers, "bubblewrap"] if wrapper else execution.layers


def _judged(
    wrapper: tuple[str, ...],
    solution: str,
    tests: dict[str, Any],
    seconds: float,
    memory_bytes: int,
) -> Execution:
    limits: dict[str, Any] = {
        **_readable(),
        "seconds": math.ceil(seconds),
        "memory_bytes": memory_bytes,
        "parent": None if wrapper else os.getpid(),  # bubblewrap is between
    }
    calls, answers = os.pipe(), os.pipe()
    try:
        job = {"limits": limits, "solution": solution}
        worker = _start(wrapper, "worker", (calls[0], answers[1]), job, subprocess.DEVNULL)
        job = {"limits": limits, **tests}
        judge = _start(wrapper, "judge", (answers[0], calls[1]), job, subprocess.PIPE)
    finally:
        for descriptor in (*calls, *answers):
            os.close(descriptor)
    assert judge.stdout is not None
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(judge.stdout, selectors.EVENT_READ)
            in_time = bool(selector.select(4 * seconds))
        line = os.read(judge.stdout.fileno(), 1 << 16) if in_time else b""
    finally:
        for process in (judge, worker):
            # which error a process that has ended causes depends on the system
            with contextlib.suppress(ProcessLookupError, PermissionError):
                # neither is reaped yet, so that its number belongs to no other process
                os.killpg(process.pid, signal.SIGKILL)
        for process in (judge, worker):
            with process:
                process.wait()
    if line:
        return Execution(**json.loads(line))
    late = f"no verdict after {4 * seconds:.0f} seconds"
    return Execution(False, "the judge ended without a verdict" if in_time else late, [])


def _start(
    wrapper: tuple[str, ...], role: str, pipes: tuple[int, int], job: dict[str, Any], stdout: int
) -> subprocess.Popen[bytes]:
    """Start a fresh interpreter that reads its job from stdin: no site packages, no environment, a
    session of its own."""
    start = START.format(root=str(ROOT), role=role, incoming=pipes[0], outgoing=pipes[1])
    with tempfile.NamedTemporaryFile() as file:
        file.write(json.dumps(job).encode())
        file.flush()
        # open to read only: what is open to write could be made to fill the disk
        with Path(file.name).open("rb") as stdin:
            return subprocess.Popen(
                [*wrapper, os.path.realpath(sys.executable), "-s", "-S", "-P", "-c", start],
                stdin=stdin,
                stdout=stdout,
                stderr=subprocess.DEVNULL,
                pass_fds=pipes,
                cwd="/",
                env={"PYTHONHASHSEED": "0", "PYTHONUTF8": "1"},  # equal answers get equal verdicts
                start_new_session=True,
            )


@functools.cache
def _readable() -> dict[str, list[str]]:
    """What confined code may read: the standard library without the packages installed in it, and
    the system's libraries."""
    library = sysconfig.get_path("stdlib")
    installed = ("site-packages", "dist-packages")
    modules = [str(path) for path in Path(library).iterdir() if path.name not in installed]
    return {"readable": [*modules, *LIBRARIES], "listed": [library]}
