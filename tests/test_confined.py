"""The parts of the sandbox, each by itself, so that none covers for another."""

import os
import signal
import subprocess
import sys
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies

from peftbench.sandbox import wire
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
        "import tempfile; tempfile.TemporaryFile().write(b'x')",
    ],
)
def test_seccomp_leaves_the_rest(act: str) -> None:
    assert fate(SECCOMP, act) == "done"


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
