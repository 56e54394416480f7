"""The parts of the sandbox, each by itself, so that none covers for another."""

import os
import re
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies

from peftbench.sandbox import landlock, seccomp, wire
from peftbench.sandbox.execute import ROOT, confinement

SECCOMP = "from peftbench.sandbox.seccomp import refuse_calls; refuse_calls()"
LANDLOCK = "from peftbench.sandbox.landlock import only_read; only_read(['/usr'], ['/var'])"
GUARD = (
    "from peftbench.sandbox.guard import guard; sys.addaudithook(guard(['/usr', sys.base_prefix]))"
)


def fate(layer: str, act: str) -> str:
    """The exception that `act` meets in a process with one layer, or "done"."""
    source = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
{layer}
try: exec({act!r})
except Exception as error: print(type(error).__name__)
else: print("done")
"""
    return subprocess.run(
        [sys.executable, "-S", "-c", source], capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.mark.parametrize(
    "act",
    [
        "os.fork()",
        "os.kill(os.getppid(), 0)",
        "import socket; socket.socket()",
        "os.execv('/bin/true', ['true'])",
        "os.chmod('/', 0o755)",
    ],
)
def test_seccomp_refuses(act: str) -> None:
    if "seccomp" not in confinement():
        pytest.skip("no seccomp here")
    assert fate(SECCOMP, act) == "PermissionError"


@pytest.mark.parametrize(
    "act",
    [
        "import threading; threading.Thread(target=int).start()",
        "open('/usr/bin/env', 'rb').read(); os.listdir('/usr'); os.path.exists('/usr')",
        "open('/dev/null').isatty(); os.dup(0); os.getcwd(); os.cpu_count(); os.uname()",
        "import time; time.sleep(0.001); time.localtime(); time.process_time()",
        "import random; random.SystemRandom().random()",
        "import zoneinfo; zoneinfo.ZoneInfo('UTC')",
        "import mmap; mmap.mmap(-1, 1 << 25).close(); bytearray(1 << 26)",
        "import resource; resource.getrlimit(0); resource.getrusage(0)",
        "import queue; queue.Queue().put(1); import select; select.select([0], [], [], 0)",
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)",
        "import decimal, fractions, hashlib, sqlite3, json, statistics",
    ],
)
def test_seccomp_leaves_the_rest(act: str) -> None:
    assert fate(SECCOMP, act) == "done"


def answer(program: bytes, architecture: int, number: int, arguments: tuple[int, ...] = ()) -> int:
    """What the filter answers to a call: classic BPF, as the kernel runs it."""
    words = [argument % (1 << 64) for argument in (*arguments, *[0] * 6)][:6]
    call = struct.pack("iIQ6Q", number, architecture, 0, *words)
    steps = list(struct.iter_unpack("HBBI", program))
    place, accumulator = 0, 0
    while True:
        code, if_true, if_false, constant = steps[place]
        place += 1
        if code == seccomp.RETURN:
            return constant
        if code == seccomp.LOAD:
            (accumulator,) = struct.unpack_from("I", call, constant)
        elif code == seccomp.EQUAL:
            place += if_true if accumulator == constant else if_false
        elif code == seccomp.AT_LEAST:
            place += if_true if accumulator >= constant else if_false
        else:
            raise AssertionError(code)


REFUSED, UNKNOWN = seccomp.ERRNO | seccomp.EPERM, seccomp.ERRNO | seccomp.ENOSYS
machines = pytest.mark.parametrize("machine", seccomp.COLUMNS)


@machines
def test_every_number_has_its_answer(machine: str) -> None:
    column, architecture = seccomp.COLUMNS[machine]
    program = seccomp._program(column, architecture)
    names = {number: name for name, number in seccomp.allowed(column).items()}
    assert len(names) == len(seccomp.allowed(column))
    for number in (*range(600), *(number + (1 << 30) for number in range(600)), (1 << 31) - 1):
        if number in names:  # -1 is no value that a condition names
            conditional = names[number] in seccomp.ONLY
            expected = REFUSED if conditional else seccomp.ALLOW
        else:
            expected = UNKNOWN if number >= seccomp.NEWER else REFUSED
        assert answer(program, architecture, number, (-1,) * 6) == expected, number
    assert answer(program, 0x40000003, 0) == seccomp.KILL  # 32-bit calls of x86


HIGH = 1 << 32


@machines
@pytest.mark.parametrize(
    ("name", "arguments", "right"),
    [
        ("clone", (0x3D0F00,), True),
        ("clone", (0x7D0F00,), True),
        ("clone", (17,), False),
        ("clone", (0x3D0F00 | 0x40000000,), False),  # with CLONE_NEWNET
        ("clone", (0x3D0F00 & ~0x10000,), False),  # without CLONE_THREAD
        *(("fcntl", (0, command, 0), True) for command in (0, 1, 2, 3, 1030)),
        *(
            ("fcntl", (0, command + high, 0), False)
            for command in (4, 5, 6, 7, 8, 10, 15, 36, 37, 38, 1024, 1026, 1031, 1033)
            for high in (0, HIGH)  # which the kernel does not read
        ),
        *(("ioctl", (0, request), True) for request in (0x5401, 0x5413, 0x5451)),
        *(
            ("ioctl", (0, request + high), False)
            for request in (0x8901, 0x8902, 0x5412, 0x540E, 0x5421, 0x5452, 0x40049409)
            for high in (0, HIGH)
        ),
        *(("madvise", (0, 4096, advice), True) for advice in (4, 8, 14)),
        *(("madvise", (0, 4096, advice), False) for advice in (9, 12, 21, 100, 101)),
        ("prctl", (15, 0), True),
        *(("prctl", (option, 0), False) for option in (1, 4, 8, 22, 24, 36, 38, 0x59616D61)),
        ("prlimit64", (0, 7, 0, 4096), True),
        ("prlimit64", (1, 7, 0, 4096), False),
        ("prlimit64", (0, 7, 4096, 0), False),
        ("prlimit64", (0, 7, HIGH, 0), False),  # a pointer has two halves
        ("membarrier", (1,), False),
    ],
)
def test_arguments_decide(machine: str, name: str, arguments: tuple[int, ...], right: bool) -> None:
    column, architecture = seccomp.COLUMNS[machine]
    program = seccomp._program(column, architecture)
    number = seccomp.allowed(column)[name]
    expected = seccomp.ALLOW if right else REFUSED
    assert answer(program, architecture, number, arguments) == expected


def test_the_kernel_refuses_every_number_that_is_not_allowed() -> None:
    """Made for real: -1 for all arguments, which no call takes for a request to do anything."""
    if "seccomp" not in confinement():
        pytest.skip("no seccomp here")
    column, _ = seccomp.COLUMNS[os.uname().machine]
    # uretprobe and uprobe (x86_64) pass every filter; the kernel ends whoever calls them
    numbers = sorted({*range(500)} - {*seccomp.allowed(column).values()} - {335, 336})
    source = f"""
import ctypes, sys
sys.path.insert(0, {str(ROOT)!r})
from peftbench.sandbox.seccomp import refuse_calls
libc = ctypes.CDLL(None, use_errno=True)
assert refuse_calls()
wrong = []
for number in {numbers}:
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(-1)] * 6)
    if result != -1 or ctypes.get_errno() != (1 if number < 424 else 38):
        wrong.append((number, result, ctypes.get_errno()))
print(wrong)
"""
    process = subprocess.run(
        [sys.executable, "-S", "-c", source],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert (process.stdout, process.stderr) == ("[]\n", "")


@pytest.mark.parametrize("name", ["x86_64-linux-gnu/asm/unistd_64.h", "asm-generic/unistd.h"])
def test_numbers_are_the_kernels(name: str) -> None:
    header = Path("/usr/include", name)
    if not header.exists():
        pytest.skip("the kernel's headers are not installed")
    found = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)\b", header.read_text())
    numbers = {word: int(number) for word, number in found}
    numbers.setdefault("newfstatat", numbers.get("fstatat", -1))
    ours = seccomp.allowed(1 if "x86_64" in name else 2)
    assert ours == {word: numbers.get(word) for word in ours}


SIZES = {1: (13,), 2: (14,), 3: (15,), 4: (15, 2), 5: (16, 2), 6: (16, 2, 2), 9: (16, 2, 2)}


@pytest.mark.parametrize(("version", "sizes"), SIZES.items())
def test_landlock_refuses_all_that_a_version_knows(version: int, sizes: tuple[int, ...]) -> None:
    words = struct.unpack(f"{len(sizes)}Q", landlock._ruleset(version))
    assert words == tuple((1 << size) - 1 for size in sizes)


USER = "from peftbench.sandbox.user import own_user, limit_tasks\nown_user()"


def test_a_user_of_its_own_has_no_rights_and_no_others() -> None:
    act = """
status = open('/proc/self/status').read()
assert int(status.split('CapEff:')[1].split()[0], 16) & ~4 == 0, status
assert int(status.split('CapPrm:')[1].split()[0], 16) & ~4 == 0, status
os.kill(os.getppid(), 0)
"""
    if os.geteuid() != 0:  # who is not root stays the same user, in another namespace
        pytest.skip("only root can change its user")
    assert fate(USER, act) == "PermissionError"


def test_tasks_are_limited() -> None:
    if "tasks" not in confinement():
        pytest.skip("tasks cannot be counted apart here")
    act = """
assert limit_tasks(8)
import threading, time
for number in range(20):
    try: threading.Thread(target=time.sleep, args=(1,), daemon=True).start()
    except RuntimeError: break
assert number == 7, number
"""
    assert fate(USER, act) == "done"


@pytest.mark.parametrize(
    "act",
    [
        "open('/etc/passwd')",
        "open('/tmp/peftbench', 'w')",
        "open('/usr/x', 'w')",
        "os.mkdir('/tmp/refused-by-landlock')",
        "os.listdir('/')",
        "os.listdir('/etc')",
    ],
)
def test_landlock_refuses(act: str) -> None:
    if "landlock" not in confinement():
        pytest.skip("no Landlock here")
    assert fate(LANDLOCK, act) == "PermissionError"


@pytest.mark.parametrize(
    ("act", "since"),
    [
        ("os.kill(os.getppid(), 0)", landlock.SCOPED),
        ("import socket; socket.create_connection(('127.0.0.1', 9))", landlock.NET),
    ],
)
def test_a_new_landlock_refuses(act: str, since: int) -> None:
    if landlock.version() < since:
        pytest.skip(f"Landlock here is older than version {since}")
    assert fate(LANDLOCK, act) == "PermissionError"


@pytest.mark.parametrize(
    "act", ["os.listdir('/var')", "os.listdir('/usr')", "open('/dev/null', 'w')"]
)
def test_landlock_leaves_the_rest(act: str) -> None:
    assert fate(LANDLOCK, act) == "done"


@pytest.mark.parametrize(
    "act",
    [
        "os.fork()",
        "os.system('true')",
        "os.kill(os.getppid(), 0)",
        "import socket; socket.socket()",
        "import _posixsubprocess",
        "open('/etc/passwd')",
        "open('/usr/../etc/passwd')",
        "open('/usr/x', 'w')",
        "os.open('/usr/x', os.O_CREAT)",
        "os.listdir('/')",
        "import pathlib; pathlib.Path('/etc/passwd').read_text()",
        "class S(str): pass\nopen(S('/usr/x'))",
        "import gc; gc.get_objects()",
        "os.remove('/usr/x')",
        "os.mkdir('/usr/x')",
        "import ctypes; ctypes.CDLL(None)",
        "fate = lambda: 0; fate.__code__ = fate.__code__",
    ],
)
def test_guard_refuses(act: str) -> None:
    assert fate(GUARD, act) == "PermissionError"


@pytest.mark.parametrize(
    "act",
    [
        "os.listdir('/usr')",
        "open('/dev/null', 'w')",
        "import collections, random, string, dataclasses, fractions",
    ],
)
def test_guard_leaves_the_rest(act: str) -> None:
    assert fate(GUARD, act) == "done"


def test_processor_time_is_limited() -> None:
    source = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from peftbench.sandbox.confine import confine
confine(readable=[], listed=[], seconds=1, memory_bytes=1 << 30)
while True: pass
"""
    assert (
        subprocess.run([sys.executable, "-S", "-c", source], check=False).returncode
        == -signal.SIGXCPU
    )


keys = (
    strategies.none()
    | strategies.booleans()
    | strategies.integers()
    | strategies.text()
    | strategies.binary()
    | strategies.floats()
)
plain: strategies.SearchStrategy[Any] = strategies.recursive(
    keys
    | strategies.complex_numbers()
    | strategies.sets(strategies.integers())
    | strategies.frozensets(strategies.text()),
    lambda inner: (
        strategies.lists(inner)
        | strategies.lists(inner).map(tuple)
        | strategies.dictionaries(keys, inner)
    ),
    max_leaves=10,
)


def spelt(value: Any) -> str:
    """Like repr, which tells 1, 1.0 and True apart where == does not, but with sets in order."""
    if isinstance(value, set | frozenset):
        return f"{type(value).__name__}({sorted(map(spelt, value))})"
    if isinstance(value, dict):
        return f"{ {spelt(key): spelt(item) for key, item in value.items()} }"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__}({[spelt(item) for item in value]})"
    return repr(value)


@hypothesis.given(plain)
def test_values_arrive_as_they_were(value: object) -> None:
    reading, writing = os.pipe()
    wire.send(writing, value)
    arrived = wire.receive(reading)
    os.close(reading)
    os.close(writing)
    assert spelt(arrived) == spelt(value)


def test_a_subclass_arrives_as_its_plain_type() -> None:
    class Liar(int):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

    arrived = wire.decoded(wire.encoded([Liar(1)]))
    assert (arrived, type(arrived[0])) == ([1], int)
    assert arrived != [2]


def test_what_is_not_plain_is_refused() -> None:
    with pytest.raises(TypeError, match="of type object"):
        wire.encoded([object()])
    with pytest.raises(ValueError, match="no such type: 'object'"):
        wire.decoded(["object", []])
