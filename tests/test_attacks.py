"""Every program in `attacks/` meets the fate that its docstring names, and harms nothing; each is
executed under each confinement that works here, by a process that it may try to harm."""

import functools
import itertools
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import attacked
import pytest

from peftbench.sandbox import execute as sandbox

ATTACKS = sorted(path.stem for path in (attacked.TESTS / "attacks").glob("*.py"))
MODES = ("without", "with")  # bubblewrap
ENDED = "the solution ended its process, or ran out of time or memory"
REFUSED = ("PermissionError", "OSError: [Errno 38]")


@dataclass(frozen=True)
class Attacked:
    """What came of attacks carried out together."""

    lines: dict[str, dict[str, Any]]  # by attack
    changed: dict[str, list[Any]]  # by what was changed: before, after
    left: list[str]  # processes


def is_slow(name: str) -> bool:
    return name.startswith("slow_")


@functools.cache
def carried_out(mode: str, slow: bool) -> Attacked:
    """Carry out all attacks of a kind, once, in a process that can be killed."""
    if mode == "with" and not sandbox._wrapper():
        pytest.skip("bubblewrap is not installed here, or not allowed to work")
    if not sandbox.confined():
        pytest.skip(f"nothing confines code here: {sandbox.confinement()}")
    names = [name for name in ATTACKS if is_slow(name) == slow]
    process = subprocess.run(
        [sys.executable, attacked.__file__, mode, *names],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(attacked.TESTS.parent)},
    )
    *lines, summary = [json.loads(line) for line in process.stdout.splitlines()] or [{}]
    done = [line["name"] for line in (*lines, summary) if "name" in line]
    assert process.returncode == 0, (
        f"the process that carried out the attacks ended with {process.returncode}, "
        f"after {done[-4:]}: {process.stderr[-500:]}"
    )
    return Attacked({line["name"]: line for line in lines}, **summary)


def fate(line: dict[str, Any], mode: str) -> str:
    """What an attack met, in the words of the docstrings."""
    reason: str = line["reason"]
    if line["passed"]:
        return "achieved"
    if reason == ENDED:
        return "ended"
    if reason.startswith("no verdict after"):
        return "late"
    if reason.startswith("AssertionError"):
        return "wrong"
    # bubblewrap's namespaces hold nothing else
    refused = REFUSED if mode == "without" else (*REFUSED, "FileNotFoundError")
    return "refused" if reason.removeprefix("RuntimeError: ").startswith(refused) else "error"


def everything(names: list[str]) -> list[Any]:
    """Each name in both modes. Those without bubblewrap, where nothing covers for the other layers,
    are the quick ones."""
    return [
        pytest.param(name, mode, marks=pytest.mark.slow if is_slow(name) or mode == "with" else ())
        for name, mode in itertools.product(names, MODES)
    ]


@pytest.mark.parametrize(("name", "mode"), everything(ATTACKS))
def test_an_attack_meets_its_fate(name: str, mode: str) -> None:
    line = carried_out(mode, is_slow(name)).lines[name]
    expected = attacked.fate(name)
    if expected == "achieved without bubblewrap":
        expected = "achieved" if mode == "without" else "wrong"
    assert fate(line, mode) in expected.split(" or "), line["reason"]


@pytest.mark.parametrize(("name", "mode"), everything(["late_sleep", "slow_loop"]))
def test_attacks_leave_no_trace(name: str, mode: str) -> None:
    together = carried_out(mode, is_slow(name))
    assert together.changed == {}
    assert together.left == []


def test_only_what_is_said_to_remain_is_achieved() -> None:
    """The two that only a virtual machine stops, and the one that bubblewrap does."""
    achieved = {name for name in ATTACKS if attacked.fate(name).startswith("achieved")}
    assert achieved == {name for name in ATTACKS if name.startswith("stays_")}
    assert len(achieved) == 3


def test_every_attack_says_what_it_tries() -> None:
    for name in ATTACKS:
        text = Path(attacked.TESTS, f"attacks/{name}.py").read_text()
        assert text.startswith('"""'), name
        assert "\nFate: " in text, name
