"""Check of the sandbox: programs that try to get out, and must not."""

import json
import tempfile
from pathlib import Path

from peftbench.doctor.finding import Finding
from peftbench.sandbox import execute

SECRET = "kept"
# What the programs try, in an interpreter of its own, which no audit hook of Python's watches: only
# the kernel can refuse it there. PATH is a file that everybody may read and write.
ATTEMPTS = {
    "read a file": "open(PATH).read()",
    "write a file": "open(PATH, 'a').write('x')",
    "make a file": "open(PATH + '.new', 'w').close()",
    "open a socket": "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()",
}
PROGRAM = """
SOURCE = {source!r}

def solve():
    try:
        import _interpreters
    except ImportError:  # Python 3.12 and before
        import _xxsubinterpreters as interpreters
        try:
            interpreter = interpreters.create(isolated=False)
        except TypeError:  # Python 3.11
            interpreter = interpreters.create()
        try:
            error = interpreters.run_string(interpreter, SOURCE)
        except interpreters.RunFailedError as failed:
            return str(failed)
        return "achieved" if error is None else f"{{error.type.__name__}}: {{error.msg}}"
    error = _interpreters.run_string(_interpreters.create("legacy"), SOURCE)
    return "achieved" if error is None else f"{{error.type.__name__}}: {{error.msg}}"
"""
SHOW = "answer = solve()\nassert answer == 'achieved', answer"
REFUSALS = ("PermissionError", "FileNotFoundError", "[Errno 38]")


def confinement() -> Finding:
    """Whether programs that a model wrote are held: by the layers that are said to be in force, and
    by trying."""
    layers = execute.confinement()  # which tries a correct program
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file")
        path.write_text(SECRET)
        # the file is not protected by belonging to somebody else
        Path(folder).chmod(0o777)
        path.chmod(0o666)
        met = {name: attempted(source, path) for name, source in ATTEMPTS.items()}
        harmed = path.read_text() != SECRET or len([*Path(folder).iterdir()]) > 1
    achieved = [name for name, fate in met.items() if fate == "achieved"]
    if not execute.confined():
        got = f"; a program could {', '.join(achieved)}" if achieved else ""
        return Finding(
            "warning",
            f"this system does not confine programs that a model wrote ({layers}{got})",
            "tasks that run code (humaneval, mbpp) need Linux 5.13 with Landlock and seccomp, or "
            "bubblewrap; --unconfined runs them all the same, with your rights",
        )
    if achieved or harmed:
        what = ", ".join(achieved) or "harm a file"
        return Finding(
            "failed",
            f"under {layers} a program could {what}",
            "run no task that runs code (humaneval, mbpp) here, and report this",
        )
    if odd := {name: fate for name, fate in met.items() if not is_refusal(fate)}:
        name, fate = next(iter(odd.items()))
        return Finding(
            "warning",
            f"{layers}; the program that tries to {name} ended otherwise: {fate}",
            "nothing got out, but not every way was tried; report this",
        )
    *others, last = ATTEMPTS
    tried = f"{', '.join(others)} or {last}"
    return Finding("ok", f"{layers}; programs that try to {tried} are refused")


def attempted(source: str, path: Path) -> str:
    """What a program that tries `source` met: "achieved", or an error."""
    program = PROGRAM.format(source=f"PATH = {json.dumps(str(path))}\n{source}")
    execution = execute.execute(program, SHOW, remote=["solve"], seconds=5.0)
    return "achieved" if execution.passed else execution.reason.removeprefix("AssertionError: ")


def is_refusal(fate: str) -> bool:
    """Whether a program met the kernel's refusal, or a namespace in which the file is not."""
    return any(refusal in fate for refusal in REFUSALS)
