"""Generated code neither harms anything nor passes without computing the right values, under each
confinement that works here."""

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from peftbench.sandbox import execute as sandbox
from peftbench.sandbox.execute import ROOT, Execution, confinement, execute

DOUBLE = "def double(x):\n    return 2 * x\n"
TEST = "assert double(3) == 6\nassert double('ab') == 'abab'\n"
VERDICT = b'{"passed": true, "reason": "passed", "layers": []}'


@pytest.fixture(autouse=True, params=["without bubblewrap", "with bubblewrap"])
def wrapper(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "without bubblewrap":
        monkeypatch.setattr(sandbox, "_wrapper", lambda: ())
    elif not sandbox._wrapper():
        pytest.skip("bubblewrap is not installed here, or not allowed to work")


def judge(
    solution: str, test: str = TEST, seconds: float = 3.0, memory_bytes: int = 1 << 30
) -> Execution:
    return execute(
        textwrap.dedent(solution),
        test,
        remote=["double"],
        seconds=seconds,
        memory_bytes=memory_bytes,
    )


def idle(act: str, seconds: float = 3.0) -> Execution:
    """The execution of a solution that does `act` when it is loaded, and computes nothing."""
    return judge(f"{textwrap.dedent(act)}\ndef double(x):\n    return None\n", seconds=seconds)


def refused(*acts: str) -> None:
    """Assert that each of these expressions raises PermissionError in a solution."""
    solution = """
        import os, sys
        def double(act):
            try:
                return f"gave {eval(act)!r}"
            except Exception as error:
                return type(error).__name__
    """
    test = f"""
met = {{act: double(act) for act in {acts!r}}}
wrong = {{act: fate for act, fate in met.items() if fate != "PermissionError"}}
assert not wrong, wrong
"""
    execution = judge(solution, test)
    assert execution.passed, execution.reason


def test_right_values_pass() -> None:
    assert judge(DOUBLE).passed


def test_wrong_values_fail() -> None:
    assert judge("def double(x): return x").reason == "AssertionError: "


@pytest.mark.parametrize("module", ["colorsys", "xml.dom"], ids=["a file", "a package"])
def test_a_solution_may_read_the_standard_library(module: str) -> None:
    execution = judge(f"import {module} as module\nopen(module.__file__).read()\n{DOUBLE}")
    assert execution.passed, execution.reason


def test_setup_belongs_to_the_test() -> None:
    test = "assert double(three()) == 6\nassert double([]) == []"
    assert execute(
        DOUBLE, test, setup="def three(): return 3\ndef double(x): pass", remote=["double"]
    ).passed


def test_the_reason_names_the_error() -> None:
    reason = "RuntimeError: NameError: name 'y' is not defined"
    assert judge("def double(x): return y").reason == reason
    assert judge("def double(x:").reason.startswith("RuntimeError: SyntaxError")
    assert judge("").reason == "RuntimeError: KeyError: 'double'"


@pytest.mark.parametrize(
    "act",
    [
        "raise SystemExit(0)",
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "import os; os.abort()",
        "import atexit, os; atexit.register(os._exit, 0); raise SystemExit",
        "print('passed')",
        f"""
            import os
            for file in range(64):
                try: os.write(file, {VERDICT!r})
                except OSError: pass
        """,
        """
            import builtins
            nothing = lambda self, *a: None
            builtins.AssertionError = type('Never', (Exception,), {'__init__': nothing})
        """,
        """
            import builtins
            always = lambda *a: True
            builtins.isinstance = builtins.repr = builtins.len = builtins.print = always
        """,
        """
            import sys
            sys.settrace(lambda *a: None)
            sys.excepthook = lambda *a: sys.exit(0)
            sys.stdout = sys.stderr = None
        """,
        """
            import json
            json.dumps = lambda value: 'true'
            json.loads = json.load = lambda text: {'value': 6}
        """,
        "import sys; sys.modules['peftbench.sandbox.worker'].send = lambda *a: None",
        """
            import sys
            sys._getframe(1).f_locals['reply']['value'] = 6
            sys._getframe(1).f_globals['receive'] = lambda *a: ('abs', [6], {})
        """,
    ],
)
def test_a_pass_cannot_be_forged(act: str) -> None:
    assert not idle(act, seconds=0.5).passed


@pytest.mark.parametrize("base", ["object", "int", "str", "list", "tuple", "dict", "float"])
def test_a_value_that_equals_everything_fails(base: str) -> None:
    assert not judge(f"""
        class Liar({base}):
            __eq__ = lambda self, other: True
            __ne__ = lambda self, other: False
            __hash__ = None
        def double(x):
            return Liar()
    """).passed


def test_swallowing_exceptions_fails() -> None:
    assert not judge(
        "def double(x):\n    try:\n        return y\n    except BaseException:\n        return None"
    ).passed


def test_what_the_test_uses_cannot_be_replaced() -> None:
    assert not judge(
        "def abs(x): return 0\nint = float = len = abs\ndef double(x): return -1.0",
        "assert abs(double(3) - 6) < 1e-6",
    ).passed


def test_the_test_is_out_of_reach() -> None:
    solution = """
        import sys
        def double(x):
            frame, seen = sys._getframe(), []
            while frame:
                seen += [*frame.f_locals.values(), *frame.f_globals.values()]
                frame = frame.f_back
            texts = [repr(value) for value in seen if type(value) in (str, dict, list, tuple)]
            assert not any("zeb" + "ra" in text for text in texts)
            return 2 * x
    """
    execution = judge(solution, "assert double(3) == 1 + len('zebra')")
    assert execution.passed, execution.reason


@pytest.mark.parametrize(
    "act",
    [
        "while True: pass",
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
        "while True: print('x' * 1000)",
        "import time; time.sleep(60)",
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        """
            import threading, time
            while True: threading.Thread(target=time.sleep, args=(60,)).start()
        """,
    ],
)
def test_time_is_limited(act: str) -> None:
    start = time.monotonic()
    assert not idle(act, seconds=0.5).passed
    assert time.monotonic() - start < 10


def test_memory_is_limited() -> None:
    assert idle("x = bytearray(2 * 10 ** 9)").reason == "RuntimeError: MemoryError: "
    assert not idle("x = []\nwhile True: x.append(bytes(10 ** 7))").passed
    assert judge(f"x = bytes(10 ** 8)\n{DOUBLE}").passed
    assert not judge(f"x = bytes(10 ** 8)\n{DOUBLE}", memory_bytes=10**8).passed


@pytest.mark.parametrize(
    "value", ["'x' * 10 ** 8", "nested(10 ** 5)", "object()", "(x for x in 'ab')", "lambda: 6"]
)
def test_strange_values_fail(value: str) -> None:
    assert not judge(f"""
        def nested(n):
            x = []
            for _ in range(n): x = [x]
            return x
        def double(x): return {value}
    """).passed


def test_the_environment_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "secret")
    assert judge(
        "import os\ndouble = lambda x: 'TOKEN' in os.environ or 'secret' in str(os.environ)",
        "assert double(0) is False",
    ).passed
    refused("open('/proc/self/environ').read()")


def test_nothing_outside_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    files = [
        str(tmp_path / "secret"),
        __file__,
        "/etc/passwd",
        "/proc/1/cmdline",
        f"{Path(os.__file__).parent}/../../bin/python3",
    ]
    refused(
        *(f"open({file!r}, 'rb').read()" for file in files),
        *(f"os.read(os.open({file!r}, os.O_RDONLY), 9)" for file in files),
    )
    refused(
        *(
            f"os.listdir({folder!r})"
            for folder in (str(tmp_path), str(Path.home()), str(Path(__file__).parent), "/", ".")
        )
    )


def test_nothing_outside_can_be_changed(tmp_path: Path) -> None:
    file = tmp_path / "kept"
    file.write_text("kept")
    before = file.stat()
    path = repr(str(file))
    refused(
        f"open({path}, 'w')",
        f"open({path}, 'a')",
        f"open({path}, 'r+')",
        f"open({path} + '2', 'x')",
        f"os.open({path}, os.O_WRONLY | os.O_TRUNC)",
        *(f"os.{act}({path})" for act in ("remove", "unlink", "rmdir", "mkdir")),
        *(f"os.{act}({path}, {path} + '2')" for act in ("rename", "replace", "link", "symlink")),
        f"os.truncate({path}, 1)",
        f"os.chmod({path}, 0o777)",
        f"os.chown({path}, 1, 1)",
        f"os.utime({path}, (1, 1))",
        f"__import__('shutil').rmtree({str(tmp_path)!r})",
        f"__import__('tempfile').mkstemp(dir={str(tmp_path)!r})",
    )
    after = file.stat()
    for name in ("st_mode", "st_mtime_ns", "st_ctime_ns"):
        assert getattr(after, name) == getattr(before, name)
    assert (file.read_text(), list(tmp_path.iterdir())) == ("kept", [file])


def test_nobody_else_can_be_reached() -> None:
    refused(
        "os.fork()",
        "os.forkpty()",
        "os.system('true')",
        "os.popen('true')",
        "os.execv('/bin/true', ['true'])",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "__import__('subprocess').run(['true'])",
        "__import__('_posixsubprocess')",
        "__import__('multiprocessing').Process(target=print).start()",
        "__import__('pty').spawn('true')",
        "__import__('socket').create_connection(('127.0.0.1', 9))",
        "__import__('socket').socket(1)",
        "__import__('socket').socketpair()",
        "os.kill(os.getppid(), 9)",
        "os.kill(-1, 9)",
        "os.killpg(0, 9)",
        "os.kill(1, 9)",
        "__import__('gc').get_objects()",
        "__import__('resource').setrlimit(0, (9, 9))",
        "__import__('ctypes').CDLL(None).fork()",
    )


def test_no_process_outlives_its_run() -> None:
    marker = f"survivor-{os.getpid()}"
    idle(f"""
        import os, sys
        sleep = [sys.executable, "-c", "import time; time.sleep(30)", "{marker}"]
        for start in (os.fork, lambda: os.posix_spawn(sys.executable, sleep, {{}})):
            try:
                if start() == 0:
                    os.setsid()
                    os.fork() or os.execv(sys.executable, sleep)
            except OSError:
                pass
    """)
    time.sleep(0.1)
    processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert marker not in processes.stdout


def test_no_process_outlives_its_parent() -> None:
    """However the parent ends: it can do nothing any more when it is killed."""
    sleep = "import time; time.sleep(60)"
    source = f"""
from peftbench.sandbox import execute as sandbox
sandbox._wrapper = lambda: {sandbox._wrapper()!r}
sandbox.execute({sleep!r}, "", remote=[], seconds=30.0)
"""
    parent = subprocess.Popen([sys.executable, "-c", source], env={"PYTHONPATH": str(ROOT)})
    wait_for(lambda: len(descendants(parent.pid)) >= 2)
    started = descendants(parent.pid)
    parent.kill()
    parent.wait()
    wait_for(lambda: not any(Path(f"/proc/{number}").exists() for number in started))


def wait_for(reached: Callable[[], bool]) -> None:
    """Fail if it is not reached within seconds."""
    end = time.monotonic() + 10
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.02)


def descendants(parent: int) -> set[int]:
    """The numbers of its children and of theirs."""
    rows = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True, check=True)
    pairs = [tuple(map(int, row.split())) for row in rows.stdout.splitlines()[1:]]
    below, last = {parent}, set[int]()
    while below != last:
        last, below = below, below | {number for number, above in pairs if above in below}
    return below - {parent}


def test_equal_solutions_get_equal_verdicts() -> None:
    reasons = {
        judge(
            "def double(x): return list({'a', 'b', 'c', 'd', 'e'})",
            "raise AssertionError(double(0))",
        ).reason
        for _ in range(3)
    }
    assert len(reasons) == 1


def test_many_at_once() -> None:
    with ThreadPoolExecutor(8) as pool:
        executions = list(pool.map(judge, [DOUBLE, "def double(x): return x"] * 8))
    assert [execution.passed for execution in executions] == [True, False] * 8


def test_confinement_names_what_holds() -> None:
    layers = confinement().split("+")
    assert "rlimits" in layers
    assert ("bubblewrap" in layers) == bool(sandbox._wrapper())
