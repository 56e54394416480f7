"""The process that the tests run in. No generated code ever runs here: what the tests call is in the worker, and only values come back."""

import json
import os
import sys
from collections.abc import Callable
from typing import Any

from peftbench.confined.confine import confine
from peftbench.confined.wire import receive, send


def main(incoming: int, outgoing: int) -> None:
    """Run the tests of the job on stdin and write the verdict, one line of JSON, to what was stdout."""
    job = json.load(sys.stdin)
    verdict = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what the tests print
    sys.set_int_max_str_digits(0)
    layers = confine(**job["limits"])
    try:
        _answer(incoming)  # that the solution was loaded
        namespace: dict[str, Any] = {"__name__": "test"}
        exec(compile(job["setup"], "setup", "exec"), namespace)
        for name in job["remote"]:
            namespace[name] = remote(name, incoming, outgoing)
        exec(compile(job["test"], "test", "exec"), namespace)
        passed, reason = True, "passed"
    except (EOFError, BrokenPipeError):
        passed, reason = False, "the solution ended its process, or ran out of time or memory"
    except BaseException as error:
        passed, reason = False, f"{type(error).__name__}: {error}"[:300]
    os.write(verdict, json.dumps({"passed": passed, "reason": reason, "layers": layers}).encode())


def remote(name: str, incoming: int, outgoing: int) -> Callable[..., Any]:
    """A function of the worker. Arguments and results are copies. An exception there is a RuntimeError here."""

    def call(*arguments: Any, **keywords: Any) -> Any:
        send(outgoing, [name, arguments, keywords])
        return _answer(incoming)

    call.__name__ = name
    return call


def _answer(incoming: int) -> Any:
    reply = receive(incoming)
    if "value" not in reply:
        raise RuntimeError(f"{reply['error']}: {reply['message']}")
    return reply["value"]
