"""Carries out attacks, as the process that they are to harm: what it prints, a line of JSON for
each, is worth something only if it lives to print it.

    python tests/attacked.py {with,without} NAME...
"""

import ctypes
import json
import os
import re
import resource
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from peftbench.sandbox import execute as sandbox

TESTS = Path(__file__).parent
HIDDEN = "the value that only the test knows"
PR_GET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 2, 36  # linux/prctl.h


def main(mode: str, *names: str) -> None:
    if mode == "without":
        sandbox._wrapper = lambda: ()  # type: ignore[assignment]
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    os.environ["SECRET"] = "a token of the parent's"
    with tempfile.TemporaryDirectory() as folder:
        canary = Path(folder, "kept")
        canary.write_text("kept")
        # neither is protected by belonging to somebody else
        Path(folder).chmod(0o777)
        canary.chmod(0o666)
        before = state(canary)
        with ThreadPoolExecutor(4) as threads:
            for line in threads.map(lambda name: attack(name, str(canary)), names):
                print(json.dumps(line), flush=True)
        after = state(canary)
    changed = {name: (before[name], after[name]) for name in before if before[name] != after[name]}
    print(json.dumps({"changed": changed, "left": processes()}))


def fate(name: str) -> str:
    """What an attack's docstring expects."""
    match = re.search(r"^Fate: (.+)\.$", (TESTS / f"attacks/{name}.py").read_text(), re.MULTILINE)
    assert match, name
    return match[1]


def attack(name: str, canary: str) -> dict[str, Any]:
    """Execute one. An attack says by True that it did what it tried to do; one that forges has to
    give a value that it cannot know."""
    tools = (TESTS / "attack_tools.py").read_text()
    tools = re.sub(r"^CANARY = .*$", f"CANARY = {canary!r}", tools, flags=re.MULTILINE)
    source = (TESTS / f"attacks/{name}.py").read_text()
    source = tools + re.sub(r"^from attack_tools .*$", "", source, flags=re.MULTILINE)
    test = "assert solve() == True"
    if name.startswith("forges_"):
        test = f"assert solve() == {HIDDEN!r}"
    quick = fate(name) == "late" or name.startswith("slow_")
    start = time.monotonic()
    execution = sandbox.execute(source, test, remote=["solve"], seconds=0.5 if quick else 5.0)
    seconds = time.monotonic() - start
    return {
        "name": name,
        "passed": execution.passed,
        "reason": execution.reason,
        "seconds": seconds,
    }


def state(canary: Path) -> dict[str, object]:
    """What no attack may change: files, what processes share, and this process itself."""
    library = Path(os.__file__)
    death = ctypes.c_int()
    ctypes.CDLL(None).prctl(PR_GET_PDEATHSIG, ctypes.byref(death))
    return {
        "canary": canary.read_text(),
        **{
            f"{file}: {name}": getattr(file.stat(), name)
            for file in (canary, library)
            for name in ("st_mode", "st_mtime_ns", "st_ctime_ns", "st_uid", "st_nlink", "st_size")
        },
        "attributes": os.listxattr(library),
        "beside it": sorted(path.name for path in canary.parent.iterdir()),
        **{
            f"{kind} in shared memory": Path(f"/proc/sysvipc/{kind}").read_text().count("\n")
            for kind in ("shm", "msg", "sem")
            if Path(f"/proc/sysvipc/{kind}").exists()
        },
        "limits": [*map(resource.getrlimit, (resource.RLIMIT_NOFILE, resource.RLIMIT_AS))],
        "priority": (os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0)),
        "cores": sorted(os.sched_getaffinity(0)),
        "user": (os.getresuid(), os.getpgid(0), os.umask(os.umask(0o022))),
        "signal on the parent's death": death.value,
    }


def processes() -> list[str]:
    """The command lines of processes that are left: all come to this one, which has asked for what
    loses its parent, once they have had time to end."""
    left = []
    for _ in range(20):
        time.sleep(0.1)
        left = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
                command = (folder / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
            if int(parent) == os.getpid() and state != "Z":
                left.append(command[:200])
        if not left:
            break
    return left


if __name__ == "__main__":
    main(*sys.argv[1:])
